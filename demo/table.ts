/** Text tables for a terminal. */

/** Rows as aligned columns; the first column to the left, the others to the right. */
export function table(header: string[], rows: string[][]): string {
  const all = [header, ...rows];
  const widths = header.map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0)));
  const line = (row: string[]) =>
    `  ${row.map((cell, column) => (column === 0 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!))).join('   ')}`.trimEnd();
  return [line(header), `  ${widths.map((width) => '─'.repeat(width)).join('───')}`, ...rows.map(line)].join('\n');
}

export const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(bytes < 99.5e6 ? 1 : 0)} MB`;
export const percent = (fraction: number, digits = 1): string => `${(fraction * 100).toFixed(digits)}%`;

/** A progress line: rewritten in place on a terminal, one line a stage elsewhere. */
export class Progress {
  #last = '';
  show(stage: string, fraction: number, etaSeconds: number | null): void {
    const tty = process.stdout.isTTY;
    const filled = Math.round(Math.min(1, Math.max(0, fraction)) * 24);
    const eta = etaSeconds === null || etaSeconds <= 0 ? '' : `, about ${Math.ceil(etaSeconds)} s left`;
    const line = tty
      ? `  ${'█'.repeat(filled)}${'░'.repeat(24 - filled)} ${percent(fraction, 0).padStart(4)}  ${stage}${eta}`
      : `  ${stage} (${percent(fraction, 0)})`;
    const key = tty ? line : stage;
    if (key === this.#last) return;
    this.#last = key;
    process.stdout.write(tty ? `\r\x1b[2K${line}` : `${line}\n`);
  }
  done(): void {
    if (process.stdout.isTTY && this.#last !== '') process.stdout.write('\r\x1b[2K');
  }
}
