// @ts-check
// What this node hears on the wire, and what each machine was told.

import { api } from './api.js';
import { h, keep } from './html.js';
import { stalledSign } from './timeline.js';
import { clock, span, text, when } from './text.js';

const most = 200;
const modes = { dhcp: 'gives addresses and boots machines', proxy: 'boots machines beside another DHCP server', observe: 'answers nothing, shows everything', off: 'silent' };

export class Page {
  constructor(root, app) {
    this.app = app;
    /** @type {any} */ this.network = null;
    /** @type {any[]} */ this.lines = [];
    this.problem = '';
    this.top = h('section.card');
    this.wire = h('section.card');
    this.list = h('section.card');
    this.used = h('section.card');
    /** @type {any[]} */ this.leases = [];
    root.replaceChildren(h('article.sheet', null, h('header', null, h('h1', null, 'Network')), this.top, this.wire, this.list, this.used));
    this.onframe = (/** @type {any} */ e) => {
      const f = e.detail;
      if (f.type === 'sighting') {
        this.lines = [f, ...this.lines].slice(0, most);
        this.later();
      }
      if (f.type === 'snapshot' || f.type === 'resumed') this.load();
    };
    app.store.addEventListener('frame', this.onframe);
    this.load();
  }

  leave() {
    this.app.store.removeEventListener('frame', this.onframe);
    clearTimeout(this.timer);
  }

  /** Asks who stands where, once for a burst of sightings. */
  later() {
    this.timer ??= setTimeout(() => { this.timer = undefined; this.load(); }, 1000);
  }

  async load() {
    try {
      this.network = await api.network();
      this.lines = [...(this.network.sightings ?? [])].sort((a, b) => when(b.at) - when(a.at)).slice(0, most);
      this.problem = '';
      this.leases = (await api.leases()).leases ?? [];
    } catch (e) {
      this.problem = e instanceof Error ? e.message : String(e);
    }
    this.app.dirty();
  }

  /** @param {boolean} tick */
  paint(tick) {
    const n = this.network;
    const now = this.app.store.now();
    /** Those that stand come first. @type {any[]} */ const machines = [...(n?.machines ?? [])].sort((a, b) => Number(Boolean(b.stall)) - Number(Boolean(a.stall)));
    if (tick || this.painted !== n) {
      this.painted = n;
      keep(this.wire, machines.map((m) => [m, span(now - when(m.at))]), () => n && [h('h2', null, text.wire.title), machines.length ? this.onwire(machines, now) : h('p.soft', null, text.wire.none)]);
    }
    keep(this.top, [n?.interfaces, n?.counters, this.problem], () => [
      this.problem && h('p.note.bad', null, this.problem),
      n && h('h2', null, 'Listening'),
      n && h('dl.facts', null, (n.interfaces ?? []).map((/** @type {any} */ i) => [h('dt.mono', null, i.name), h('dd', null, [i.mode && `${i.mode}: ${modes[i.mode] ?? ''}`, i.address, i.behind_relays && `${i.behind_relays} behind relays`, i.range && `gives ${i.range}`].filter(Boolean).join(' · '))])),
      n?.counters && h('details', null, h('summary', null, 'Counters'), h('dl.facts', null, Object.entries(n.counters).sort().map(([k, v]) => [h('dt.mono', null, k), h('dd', null, Number(v).toLocaleString('en'))]))),
    ]);
    keep(this.list, [this.lines, Boolean(n)], () => [h('h2', null, 'Boot requests'), this.lines.length
      ? h('ol.lines.macs', { tabIndex: 0, aria: { label: 'Boot requests, newest first' } }, this.lines.map((s) => h('li', null, h('time', { title: s.at }, clock(s.at)), this.who(s.mac), h('span.kind', null, s.kind), h('span', null, s.text))))
      : n && h('p.soft', null, text.empty.network)]);
    keep(this.used, [this.leases], () => [h('h2', null, 'Addresses in use'), this.leases.length ? this.addresses() : h('p.soft', null, text.empty.leases)]);
  }

  /** Who has which address: what all nodes know, and what this one has lent. */
  addresses() {
    const head = ['Address', 'State', 'Who', 'Until', ''];
    return h('div.wide', { tabIndex: 0, role: 'region', aria: { label: 'Addresses in use' } }, h('table.plain', null, h('thead', null, h('tr', null, head.map((x) => h(x ? 'th' : 'td', x ? { scope: 'col' } : null, x)))),
      h('tbody', null, this.leases.map((l) => h('tr', null, h('td.mono', null, l.address), h('td', null, l.state), h('td', null, l.mac ? this.who(l.mac) : null),
        h('td', null, l.until ? h('time', { title: l.until }, clock(l.until)) : null), h('td', null, l.why ?? ''))))));
  }

  /** Known or not: who was seen last, and who stands. @param {any[]} machines @param {number} now */
  onwire(machines, now) {
    const w = text.wire;
    return h('div.wide.tall', { tabIndex: 0, role: 'region', aria: { label: w.title } }, h('table.plain', null,
      h('thead', null, h('tr', null, [w.machine, w.address, w.last, w.ago].map((x) => h('th', { scope: 'col' }, x)))),
      h('tbody', null, machines.map((m) => h('tr', { data: { mac: m.mac } },
        h('td', null, m.machine_id ? h('a', { href: `#/m/${m.machine_id}`, title: m.mac }, m.name) : h('a.mono', { href: `#/w/${m.mac}` }, m.mac)),
        h('td.mono', null, m.address ?? ''),
        h('td', null, m.stall ? [h('p', null, stalledSign(), ' ', m.stall.text), h('p.soft', null, `${text.whatToDo}: ${m.stall.hint}`)] : m.text, m.node && h('span.soft', null, ` (${m.node})`)),
        h('td.age', null, span(now - when(m.at))))))));
  }

  /** The machine's name where it is known, else its MAC. @param {string} mac */
  who(mac) {
    for (const m of this.app.store.machines.values()) {
      if (m.ids?.macs?.includes(mac)) return h('a', { href: `#/m/${m.id}`, title: mac }, m.name);
    }
    return h('span.mono', null, mac);
  }
}
