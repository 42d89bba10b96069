export { type Broker, type BrokerOptions, type Consumer, openBroker } from './broker.ts';
export { quantizeQueue, WEBHOOK_QUEUE } from './catalogue.ts';
export { type ReconcilerOptions, startReconciler } from './reconciler.ts';
export { startRelay } from './relay.ts';
