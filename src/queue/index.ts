export { type Broker, type Consumer, openBroker } from './broker.ts';
export { quantizeQueue, WEBHOOK_QUEUE } from './catalogue.ts';
export { startReconciler } from './reconciler.ts';
export { startRelay } from './relay.ts';
