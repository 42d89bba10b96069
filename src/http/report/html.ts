/** Markup that has been written or escaped by us; everything else that goes into a page is text. */
export class SafeHtml {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
  toString(): string {
    return this.text;
  }
}

type Content = SafeHtml | string | number | null | undefined | false | Content[];

const ENTITIES: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

/** Text for an element or a quoted attribute. Control characters, which HTML forbids, become U+FFFD. */
function escapeHtml(text: string): string {
  return text.replace(/[^\P{Cc}\t\n\r]/gu, '\ufffd').replace(/[&<>"']/g, (char) => ENTITIES[char]!);
}

function render(content: Content): string {
  if (content === null || content === undefined || content === false) return '';
  if (content instanceof SafeHtml) return content.text;
  return Array.isArray(content) ? content.map(render).join('') : escapeHtml(String(content));
}

/** A template whose holes are escaped unless they are markup already. Lists are joined; null, undefined and false are nothing. */
export function html(strings: TemplateStringsArray, ...values: Content[]): SafeHtml {
  return new SafeHtml(strings.reduce((out, part, i) => out + render(values[i - 1]) + part));
}
