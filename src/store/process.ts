/** Which process something belongs to, in a form that outlives the process: its id alone may have been given to another since. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import os from 'node:os';

export interface ProcessMark {
  /** The machine and its boot; in a container, the container. */
  machine: string;
  pid: number;
  /** When the process started, as the system counts it. */
  stamp: string;
}

/** Null where there is no such process. */
function processStamp(pid: number): string | null {
  if (process.platform === 'linux') {
    try {
      // The program's name, in brackets, may hold spaces and brackets: fields are counted from the last one. 22 is the start time, 3 the state.
      const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
        .replace(/^.*\) /s, '')
        .split(' ');
      return fields[0] === 'Z' ? null : (fields[19] ?? null);
    } catch {
      return null;
    }
  }
  const started = spawnSync('ps', ['-o', 'lstart=', '-p', String(pid)], { encoding: 'utf8', env: { PATH: '/usr/bin:/bin', LC_ALL: 'C' } });
  return started.stdout?.trim().replace(/\W+/g, '-') || null;
}

function machineName(): string {
  let boot = '';
  try {
    boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').slice(0, 8);
  } catch {
    // Not Linux: the host's name must do.
  }
  return `${os.hostname()}-${boot}`.replace(/[^\w-]/g, '_');
}

/** Of a process of this machine, ourselves by default; null where there is no such process. */
export function markOf(pid: number = process.pid): ProcessMark | null {
  const stamp = processStamp(pid);
  return stamp === null ? null : { machine: machineName(), pid, stamp };
}

/** `dead` is certain; `elsewhere` is a process of another machine (or container), of which nothing is known. */
export function stateOf(mark: ProcessMark): 'alive' | 'dead' | 'elsewhere' {
  if (mark.machine !== machineName()) return 'elsewhere';
  return processStamp(mark.pid) === mark.stamp ? 'alive' : 'dead';
}

/** As part of a file's name; `parseMark` reads it. */
export function formatMark(mark: ProcessMark): string {
  return `${mark.machine}.${mark.pid}.${mark.stamp}`;
}
export function parseMark(text: string): ProcessMark | null {
  const match = /^([\w-]+)\.(\d+)\.([\w-]+)/.exec(text);
  return match && { machine: match[1]!, pid: Number(match[2]), stamp: match[3]! };
}
