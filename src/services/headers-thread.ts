/** The thread's side of model-headers.ts: reads one model's headers and says what it found. */
import { parentPort, workerData } from 'node:worker_threads';
import { HalftoneError } from '../domain/errors.ts';
import { type HeaderAnswer, type HeaderRequest, readHeaders } from './model-headers.ts';

let answer: HeaderAnswer;
try {
  answer = { summary: await readHeaders(workerData as HeaderRequest) };
} catch (error) {
  if (!(error instanceof HalftoneError)) throw error;
  answer = { refusal: { code: error.code, detail: error.detail } };
}
parentPort?.postMessage(answer);
