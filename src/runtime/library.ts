/** Which ONNX Runtime library is loaded: the one place that decides. */
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { ortVersion } from '../../native/index.ts';

const FILES: Partial<Record<NodeJS.Platform, string>> = { linux: 'libonnxruntime.so.1', darwin: 'libonnxruntime.1.dylib' };

/** The package's folder and version; its library lies in it and is loaded without the package's own binding. */
function installedPackage(): { folder: string; version: string } {
  const manifest = createRequire(import.meta.url).resolve('onnxruntime-node/package.json');
  return { folder: dirname(manifest), version: (JSON.parse(readFileSync(manifest, 'utf8')) as { version: string }).version };
}

export interface Library {
  path: string;
  version: string;
}

let loaded: Library | undefined;

/**
 * Since 1.29 the published builds report to Microsoft unless told not to: a process's start, each session's graph name, producer,
 * hashes of graph and weights (microsoft/onnxruntime#27379), with an identifier and a cache left in the user's home. The C API's
 * switch takes effect only after the first report; this one, read when the library makes its environment, before anything.
 */
function keepToOurselves(): void {
  process.env.ORT_DISABLE_TELEMETRY = '1';
}

/**
 * Loads ONNX Runtime, once a process, and returns where it lies and its version. `path` names another build of the same version,
 * as the setting ONNXRUNTIME_LIBRARY does: a copy that is masked to run the kernels of a lesser processor. Without it this is the
 * library that the process has loaded already, or else the one inside onnxruntime-node. Throws when there is none for this
 * platform, when another one is loaded already, or when its version is not the package's: what the engine knows about the runtime
 * (facts.ts) holds for that version.
 */
export function loadLibrary(path?: string): Library {
  keepToOurselves();
  if (loaded !== undefined && (path === undefined || path === loaded.path)) return loaded;
  const { folder, version } = installedPackage();
  const file = FILES[process.platform];
  const chosen = path ?? (file === undefined ? undefined : join(folder, 'bin', 'napi-v6', process.platform, process.arch, file));
  if (chosen === undefined || !existsSync(chosen))
    throw new Error(`There is no ONNX Runtime for ${process.platform}/${process.arch}${chosen === undefined ? '' : ` at ${chosen}`}.`);
  const found = ortVersion(chosen);
  if (found !== version) throw new Error(`ONNX Runtime at ${chosen} is version ${found}, but onnxruntime-node is ${version}.`);
  loaded = { path: chosen, version };
  return loaded;
}
