// @ts-check
// Who did what: the newest first, in sentences.

import { api } from './api.js';
import { h, keep } from './html.js';
import { stamp, text } from './text.js';

const most = 200;

export class Page {
  constructor(root, app) {
    this.app = app;
    /** @type {any[]|null} */ this.records = null;
    /** Told while the list was on its way. @type {any[]} */ this.fresh = [];
    this.problem = '';
    this.list = h('section.card');
    root.replaceChildren(h('article.sheet', null, h('header', null, h('h1', null, 'Audit')), this.list));
    this.onframe = (/** @type {any} */ e) => {
      const f = e.detail;
      if (f.type === 'audit' && f.audit) this.take(f.audit);
      if (f.type === 'snapshot') this.load();
    };
    app.store.addEventListener('frame', this.onframe);
    this.load();
  }

  leave() { this.app.store.removeEventListener('frame', this.onframe); }

  take(record) {
    if (this.records) this.records = [record, ...this.records].slice(0, most);
    else this.fresh.unshift(record);
  }

  async load() {
    this.records = null;
    this.fresh = [];
    try {
      const { audit } = await api.audit(most);
      const newest = audit[0]?.index ?? 0;
      this.records = [...this.fresh.filter((r) => r.index > newest), ...audit].slice(0, most);
      this.problem = '';
    } catch (e) {
      this.problem = e instanceof Error ? e.message : String(e);
    }
    this.app.dirty();
  }

  paint() {
    if (!this.records && !this.problem) return;
    const { machines, tasks } = this.app.store;
    const there = (/** @type {any} */ r) => [machines.has(r.machine), tasks.has(r.task)];
    keep(this.list, [this.problem, this.records?.map((r) => [r, there(r)])], () => [
      this.problem && h('p.note.bad', null, this.problem),
      this.records?.length
        ? h('ol.lines.deeds', { tabIndex: 0, aria: { label: 'What was done, newest first' } }, this.records.map((r) => h('li', null,
          h('time', { title: r.at }, stamp(r.at, this.app.store.now())), h('span', null, this.sentence(r)))))
        : this.records && h('p.soft', null, text.empty.audit)]);
  }

  /** What was done, who did it standing out, and where to look. @param {any} r */
  sentence(r) {
    const who = r.by && r.what.startsWith(r.by) ? r.by : '';
    const m = this.app.store.machines.get(r.machine), t = this.app.store.tasks.get(r.task);
    return [who && h('b', null, who), r.what.slice(who.length),
      m ? [' · ', h('a', { href: `#/m/${m.id}` }, m.name)] : t && [' · ', h('a', { href: `#/t/${t.id}` }, t.machine_name || t.target_mac)]];
  }
}
