// @ts-check
// A machine that nobody knows but the wire: what one hardware address did.

import { api } from './api.js';
import { h, keep } from './html.js';
import { text } from './text.js';
import { stallNote, timeline } from './timeline.js';

export class Page {
  constructor(root, app, mac) {
    this.app = app;
    this.mac = mac;
    /** @type {any} */ this.wire = null;
    this.problem = '';
    this.notes = h('div');
    this.card = h('section.card');
    root.replaceChildren(h('article.sheet', null, h('header', null, h('a.crumb', { href: '#/network' }, '← Network'), h('h1', null, h('span.mono', null, mac)), this.notes), this.card));
    this.onframe = (/** @type {any} */ e) => {
      const f = e.detail;
      if (f.type === 'sighting' && f.mac === mac || f.type === 'snapshot' || f.type === 'resumed' || f.machine?.ids?.macs?.includes(mac)) this.later();
    };
    app.store.addEventListener('frame', this.onframe);
    this.load();
  }

  leave() {
    this.app.store.removeEventListener('frame', this.onframe);
    clearTimeout(this.timer);
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.load(), 250);
  }

  async load() {
    try {
      this.wire = await api.wire(this.mac);
      this.problem = '';
      if (this.wire.machine_id) return this.app.go(`#/m/${this.wire.machine_id}`); // its agent has reported
    } catch (e) {
      this.problem = e instanceof Error ? e.message : String(e);
    }
    this.app.dirty();
  }

  paint() {
    const w = this.wire;
    keep(this.notes, [w?.stall, this.problem], () => [w?.stall && stallNote(w.stall, this.app.store.now()), this.problem && h('p.note.bad', null, this.problem), w && !w.machine_id && h('p.soft', null, text.wire.stranger)]);
    this.card.hidden = !w;
    keep(this.card, w?.timeline, () => w && timeline(w.timeline ?? []));
  }
}
