import { SafeHtml } from './html.ts';

/** The page's style sheet: light and dark by the reader's setting, readable on paper. Colour is never the only sign: points and bars carry labels, the best one a word. */
export const STYLE = new SafeHtml(`
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --soft: #57606a; --line: #d8dee4; --panel: #f6f8fa; --float: #6e7781; --variant: #2f6fde; --best: #117a46; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --page: #0f1318; --ink: #e6e9ed; --soft: #9aa4af; --line: #2c343d; --panel: #171d24; --float: #9aa4af; --variant: #6ea8ff; --best: #4cc38a; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 10px; }
h3 { font-size: 15px; margin: 22px 0 6px; }
p { margin: 6px 0; max-width: 80ch; }
.soft, caption { color: var(--soft); }
.verdict { border: 1px solid var(--line); border-left: 5px solid var(--best); background: var(--panel); border-radius: 6px; padding: 12px 16px; margin: 20px 0; }
.verdict.neutral { border-left-color: var(--float); }
.verdict.bad { border-left-color: var(--bad); }
.verdict strong { font-size: 17px; }
.figures { display: flex; flex-wrap: wrap; gap: 8px 32px; margin: 8px 0 0; }
.figures div span { display: block; color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px; }
caption { text-align: left; padding: 0 0 6px; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line); vertical-align: top; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; font-size: 13px; }
th:first-child, td:first-child, .text { text-align: left; }
td.text { white-space: normal; overflow-wrap: anywhere; min-width: 14ch; }
tr.best td { background: var(--panel); }
small { color: var(--soft); display: block; font-size: 12px; }
.badge { display: inline-block; border: 1px solid var(--best); color: var(--best); border-radius: 10px; padding: 0 8px; font-size: 12px; margin-left: 6px; }
.error { color: var(--bad); }
.charts { display: flex; flex-wrap: wrap; gap: 20px; align-items: flex-start; }
.charts > svg { flex: 1 1 320px; max-width: 620px; }
.chart { background: var(--panel); border-radius: 6px; padding: 8px; height: auto; }
.chart text { fill: var(--ink); font: 12px system-ui, sans-serif; }
.chart .tick, .chart .name { fill: var(--soft); }
.chart .label { font-weight: 600; }
.chart .grid { stroke: var(--line); }
.chart .axis { stroke: var(--soft); }
.chart .float circle, .chart .float rect { fill: var(--float); }
.chart .variant circle, .chart .variant rect { fill: var(--variant); }
.chart .best circle, .chart .best rect { fill: var(--best); }
.chart .interval { stroke-width: 2; opacity: .5; }
.chart .float .interval { stroke: var(--float); } .chart .variant .interval { stroke: var(--variant); } .chart .best .interval { stroke: var(--best); }
details { border: 1px solid var(--line); border-radius: 6px; padding: 6px 12px; margin: 8px 0; }
summary { cursor: pointer; }
code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere; }
.meter { display: inline-block; height: 8px; border-radius: 2px; background: var(--variant); min-width: 1px; }
a { color: var(--variant); }
@media print { main { max-width: none; } details { break-inside: avoid; } }
`);
