/** Charts as inline SVG, drawn here: no script, no font, nothing from elsewhere. Colours come from the page's style sheet by class. */
import { html, type SafeHtml } from './html.ts';

export interface ScatterPoint {
  label: string;
  title: string;
  x: number;
  y: number;
  /** Interval of y. */
  low: number;
  high: number;
  kind: 'float' | 'variant' | 'best';
}

const WIDTH = 560;
const HEIGHT = 300;
const MARGIN = { left: 64, right: 24, top: 32, bottom: 44 };

/** Round steps of 1, 2 or 5 that cover a range with about `count` lines. */
export function ticks(low: number, high: number, count = 5): number[] {
  const span = high - low;
  if (!(span > 0) || !Number.isFinite(span)) return [low];
  const raw = span / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw * 0.999) ?? 10 * power;
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => Number(((first + i) * step).toPrecision(15)));
}

const at = (value: number): string => value.toFixed(1);

/** Value against cost: each point with its interval and its label beside it. Up and to the left is better, where more is better. */
export function scatter(
  points: ScatterPoint[],
  axes: { x: string; y: string; xText: (x: number) => string; yText: (y: number) => string },
): SafeHtml {
  const xHigh = Math.max(...points.map(({ x }) => x)) * 1.1 || 1;
  const yLow = Math.min(...points.map(({ low }) => low));
  const yHigh = Math.max(...points.map(({ high }) => high));
  const pad = (yHigh - yLow) * 0.08 || Math.abs(yHigh) * 0.05 || 0.5;
  const [bottom, top] = [yLow - pad, yHigh + pad];
  const sx = (x: number) => MARGIN.left + (x / xHigh) * (WIDTH - MARGIN.left - MARGIN.right);
  const sy = (y: number) => HEIGHT - MARGIN.bottom - ((y - bottom) / (top - bottom)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  // Labels that would lie on each other move up a line.
  const placed: { x: number; y: number }[] = [];
  const labels = points.map((point) => {
    const x = sx(point.x) + 9;
    let y = sy(point.y) + 4;
    while (placed.some((other) => Math.abs(other.x - x) < 22 && Math.abs(other.y - y) < 13)) y -= 13;
    placed.push({ x, y });
    return { x, y };
  });
  const description = points.map((point) => `${point.label} ${point.title}: ${axes.xText(point.x)}, ${axes.yText(point.y)}`).join('; ');
  return html`<svg class="chart" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${axes.y} against ${axes.x}. ${description}">
${ticks(bottom, top).map((y) => html`<line class="grid" x1="${MARGIN.left}" x2="${WIDTH - MARGIN.right}" y1="${at(sy(y))}" y2="${at(sy(y))}"/><text class="tick" x="${MARGIN.left - 8}" y="${at(sy(y) + 4)}" text-anchor="end">${axes.yText(y)}</text>`)}
${ticks(0, xHigh).map((x) => html`<text class="tick" x="${at(sx(x))}" y="${HEIGHT - MARGIN.bottom + 18}" text-anchor="middle">${axes.xText(x)}</text>`)}
<line class="axis" x1="${MARGIN.left}" x2="${WIDTH - MARGIN.right}" y1="${HEIGHT - MARGIN.bottom}" y2="${HEIGHT - MARGIN.bottom}"/>
<text class="name" x="${(MARGIN.left + WIDTH - MARGIN.right) / 2}" y="${HEIGHT - 6}" text-anchor="middle">${axes.x}</text>
<text class="name" x="4" y="12">${axes.y}</text>
${points.map(
  (
    point,
    i,
  ) => html`<g class="${point.kind}"><title>${point.label} ${point.title}: ${axes.xText(point.x)}, ${axes.yText(point.y)} (${axes.yText(point.low)} to ${axes.yText(point.high)})</title>
<line class="interval" x1="${at(sx(point.x))}" x2="${at(sx(point.x))}" y1="${at(sy(point.low))}" y2="${at(sy(point.high))}"/>
<circle cx="${at(sx(point.x))}" cy="${at(sy(point.y))}" r="5"/><text class="label" x="${at(labels[i]!.x)}" y="${at(labels[i]!.y)}">${point.label}</text></g>`,
)}
</svg>`;
}

export interface Bar {
  label: string;
  title: string;
  value: number;
  kind: 'float' | 'variant' | 'best';
}

/** Horizontal bars from 0, each with its label before and its figure behind it. */
export function bars(name: string, items: Bar[], text: (value: number) => string): SafeHtml {
  const row = 24;
  const left = 34;
  const right = 92;
  const width = 360;
  const height = items.length * row + 26;
  const high = Math.max(...items.map(({ value }) => value), 0) || 1;
  const length = (value: number) => Math.max(1, (Math.max(0, value) / high) * (width - left - right));
  return html`<svg class="chart" viewBox="0 0 ${width} ${height}" role="img" aria-label="${name}. ${items.map((item) => `${item.label} ${item.title}: ${text(item.value)}`).join('; ')}">
<text class="name" x="4" y="13">${name}</text>
${items.map((item, i) => {
  const y = 24 + i * row;
  return html`<g class="${item.kind}"><title>${item.label} ${item.title}: ${text(item.value)}</title><text class="label" x="${left - 8}" y="${y + 12}" text-anchor="end">${item.label}</text>
<rect x="${left}" y="${y}" width="${at(length(item.value))}" height="16" rx="2"/><text class="tick" x="${at(left + length(item.value) + 6)}" y="${y + 12}">${text(item.value)}</text></g>`;
})}
</svg>`;
}
