/** What this process holds in memory, and the most that it held. */
import { readFileSync, writeFileSync } from 'node:fs';

/** Resident memory now and its peak since `resetPeak`, in bytes. Where there is no /proc, the peak is that of the process's whole life. */
export function residentMemory(): { now: number; peak: number } {
  try {
    const status = readFileSync('/proc/self/status', 'utf8');
    const field = (name: string) => Number(new RegExp(`^${name}:\\s*(\\d+) kB`, 'm').exec(status)![1]) * 1024;
    return { now: field('VmRSS'), peak: field('VmHWM') };
  } catch {
    return { now: process.memoryUsage.rss(), peak: process.resourceUsage().maxRSS * 1024 };
  }
}

/** Makes the peak start again from now, where the kernel can (it is optional, and some sandboxes lack it). */
export function resetPeak(): void {
  try {
    writeFileSync('/proc/self/clear_refs', '5');
  } catch {
    // The peak then stands since the process began.
  }
}
