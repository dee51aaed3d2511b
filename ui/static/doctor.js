// @ts-check
// What keeps machines from booting off this node's host: the checks of lpmos doctor,
// as far as a node can see from inside. The first that failed is the cause.

import { api } from './api.js';
import { h, keep } from './html.js';

/** @type {Record<string, [string, string]>} sign and word, never colour alone */
const signs = { ok: ['✔', 'ok'], warn: ['!', 'warning'], fail: ['✘', 'fails'], skip: ['-', 'left out'] };

export class Page {
  constructor(root, app) {
    this.app = app;
    /** @type {any} */ this.found = null;
    this.problem = '';
    this.busy = false;
    this.again = h('button', { type: 'button', onclick: () => this.load() }, 'Look again');
    this.body = h('section.card');
    root.replaceChildren(h('article.sheet', null, h('header', null, h('h1', null, 'Doctor'), h('div.actions', null, this.again)), this.body));
    this.load();
  }

  leave() {}

  async load() {
    if (this.busy) return;
    this.busy = true;
    this.app.dirty();
    try {
      this.found = await api.doctor();
      this.problem = '';
    } catch (e) {
      this.problem = e instanceof Error ? e.message : String(e);
    }
    this.busy = false;
    this.app.dirty();
  }

  paint() {
    this.again.disabled = this.busy;
    keep(this.body, [this.found, this.problem, this.busy && !this.found], () => {
      const checks = this.found?.checks ?? [];
      const cause = checks.find((/** @type {any} */ c) => c.verdict === 'fail');
      return [
        this.problem && h('p.note.bad', null, this.problem),
        !this.found && this.busy && h('p.soft', null, 'Looking …'),
        cause && h('p.note.bad', null, `The cause: ${title(cause)}: ${cause.reason}`),
        cause?.fix && h('p', null, 'What mends it: ', h('code', null, cause.fix)),
        this.found && h('ol.lines.checks', { tabIndex: 0, aria: { label: 'Checks, what rests on what is above it further in' } }, checks.map(line)),
        this.found && h('p.soft', null, 'On the host itself, sudo lpmos doctor sees more: who holds a port, the firewall, and a boot of itself.'),
      ];
    });
  }
}

/** @param {any} c */
function title(c) { return c.of ? `${c.of} ${c.id}` : c.id; }

/** @param {any} c */
function line(c) {
  const [sign, word] = signs[c.verdict] ?? ['?', c.verdict];
  return h('li', { data: { verdict: c.verdict, depth: Math.min(c.depth, 4) } }, h('span.kind', null, `${sign} ${word}`), h('span', null, h('b', null, title(c)), `: ${c.reason}`,
    c.fix && c.verdict !== 'ok' && [h('br'), 'What mends it: ', h('code', null, c.fix)]));
}
