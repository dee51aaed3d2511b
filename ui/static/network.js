// @ts-check
// What this node hears on the wire, and what each machine was told.

import { api } from './api.js';
import { h, keep } from './html.js';
import { clock, text, when } from './text.js';

const most = 200;
const modes = { dhcp: 'gives addresses and boots machines', proxy: 'boots machines beside another DHCP server', off: 'silent' };

export class Page {
  constructor(root, app) {
    this.app = app;
    /** @type {any} */ this.network = null;
    /** @type {any[]} */ this.lines = [];
    this.problem = '';
    this.top = h('section.card');
    this.list = h('section.card');
    root.replaceChildren(h('article.sheet', null, h('header', null, h('h1', null, 'Network')), this.top, this.list));
    this.onframe = (/** @type {any} */ e) => {
      const f = e.detail;
      if (f.type === 'sighting') this.lines = [f, ...this.lines].slice(0, most);
      if (f.type === 'snapshot' || f.type === 'resumed') this.load();
    };
    app.store.addEventListener('frame', this.onframe);
    this.load();
  }

  leave() { this.app.store.removeEventListener('frame', this.onframe); }

  async load() {
    try {
      this.network = await api.network();
      this.lines = [...(this.network.sightings ?? [])].sort((a, b) => when(b.at) - when(a.at)).slice(0, most);
      this.problem = '';
    } catch (e) {
      this.problem = e instanceof Error ? e.message : String(e);
    }
    this.app.dirty();
  }

  paint() {
    const n = this.network;
    keep(this.top, [n?.interfaces, n?.counters, this.problem], () => [
      this.problem && h('p.note.bad', null, this.problem),
      n && h('h2', null, 'Listening'),
      n && h('dl.facts', null, (n.interfaces ?? []).map((/** @type {any} */ i) => [h('dt.mono', null, i.name), h('dd', null, [i.mode && `${i.mode}: ${modes[i.mode] ?? ''}`, i.address, i.range && `gives ${i.range}`].filter(Boolean).join(' · '))])),
      n?.counters && h('details', null, h('summary', null, 'Counters'), h('dl.facts', null, Object.entries(n.counters).sort().map(([k, v]) => [h('dt.mono', null, k), h('dd', null, Number(v).toLocaleString('en'))]))),
    ]);
    keep(this.list, [this.lines, Boolean(n)], () => [h('h2', null, 'Boot requests'), this.lines.length
      ? h('ol.lines.macs', { tabIndex: 0, aria: { label: 'Boot requests, newest first' } }, this.lines.map((s) => h('li', null, h('time', { title: s.at }, clock(s.at)), this.who(s.mac), h('span.kind', null, s.kind), h('span', null, s.text))))
      : n && h('p.soft', null, text.empty.network)]);
  }

  /** The machine's name where it is known, else its MAC. @param {string} mac */
  who(mac) {
    for (const m of this.app.store.machines.values()) {
      if (m.ids?.macs?.includes(mac)) return h('a', { href: `#/m/${m.id}`, title: mac }, m.name);
    }
    return h('span.mono', null, mac);
  }
}
