// @ts-check
// The nodes: who leads, who has a vote, who is silent, who holds what; and how
// that is changed. The rows stand still while figures move in them, so that the
// focus stays where it is.

import { api } from './api.js';
import { complaint, show } from './dialogs.js';
import { setText } from './fleet.js';
import { h, keep, state } from './html.js';
import { bytes, plural, stamp, text, when } from './text.js';

const words = text.cluster;
const heads = ['Node', 'Region', 'Role', 'Reached', 'Behind', 'Round trip', 'Clock', 'Version', 'Free', ''];

/** @param {any} m */
const roleOf = (m) => m.leader ? 'leader' : m.voter ? 'voter' : 'standby';

/** A role as shape, word and colour. @param {string} role */
const roleSign = (role) => h('span.state', { data: { role } }, h('i.sign', { aria: { hidden: 'true' } }), words.role[role]);

export class Page {
  constructor(root, app) {
    this.app = app;
    /** @type {Map<string, any>} */ this.rows = new Map();
    this.says = h('p');
    this.add = h('button.primary', { type: 'button', onclick: () => this.token() }, 'Add a node');
    this.body = h('tbody', { role: 'rowgroup' });
    this.held = h('div.wide', { tabIndex: 0, role: 'region', aria: { label: 'Images on the nodes' } });
    root.replaceChildren(h('article.sheet.broad', null,
      h('header', null, h('h1', null, 'Cluster'), this.says, h('div.actions', null, h('a', { href: '#/doctor' }, 'What keeps machines from booting off this node?'), this.add)),
      h('section.card', null, h('div.wide', { tabIndex: 0, role: 'region', aria: { label: 'Nodes' } },
        // Named as what they are: on a narrow screen they are not laid out as a table.
        h('table.plain.nodes', { role: 'table' }, h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, heads.map((x) => h('th', { role: 'columnheader', scope: 'col' }, x || h('span.vh', null, 'Actions'))))), this.body))),
      h('section.card', null, h('h2', null, 'Images on the nodes'), this.held),
      h('section.card', null, h('h2', null, 'Signs'), h('dl.facts', null, Object.keys(words.role).map((r) => [h('dt', null, roleSign(r)), h('dd', null, words.roleMeans[r])])))));
  }

  get view() { return this.app.store.cluster; }

  paint() {
    const v = this.view;
    const why = this.app.why('admin');
    this.add.disabled = Boolean(why) || !v;
    this.add.title = why;
    setText(this.says, v ? v.summary : this.app.store.known ? words.noCluster : '');
    const members = v?.members ?? [];
    for (const [id, row] of this.rows) {
      if (members.some((/** @type {any} */ m) => m.id === id)) continue;
      row.tr.remove();
      this.rows.delete(id);
    }
    members.forEach((/** @type {any} */ m, /** @type {number} */ i) => {
      const row = this.row(m.id);
      if (this.body.children[i] !== row.tr) this.body.insertBefore(row.tr, this.body.children[i] ?? null);
      this.fill(row, m, why);
    });
    this.images(members);
  }

  row(id) {
    let row = this.rows.get(id);
    if (!row) {
      const cells = heads.map((x) => h('td', { role: 'cell', data: x ? { head: x } : {} }));
      row = { tr: h('tr', { role: 'row', data: { node: id } }, cells), cells };
      this.rows.set(id, row);
    }
    return row;
  }

  fill(row, m, why) {
    const [name, region, role, reached, behind, trip, clock, version, free, act] = row.cells;
    const now = this.app.store.now();
    const here = m.id === this.view.node;
    const silent = !here && !m.reachable;
    const since = Number.isNaN(when(m.seen_at)) ? words.never : words.silent(stamp(m.seen_at, now));
    const link = /^https?:/.test(m.dashboard ?? '') && !here;
    keep(name, [m.name, m.id, link && m.dashboard, m.address], () => [
      h('b', { title: m.id }, link ? h('a', { href: m.dashboard }, m.name) : m.name), h('div.soft.mono', null, m.address)]);
    setText(region, m.region);
    keep(role, roleOf(m), () => roleSign(roleOf(m)));
    keep(reached, [here, silent, silent && since, m.warnings], () => [
      silent ? state('lost', since) : state('installed', here ? words.here : words.reached),
      m.warnings.map((/** @type {string} */ w) => h('div.warn', null, w))]);
    setText(behind, plural(m.lag, 'entry', 'entries'));
    setText(trip, here || silent ? '' : `${m.round_trip_ms.toFixed(1)} ms`);
    setText(clock, here || silent && !m.clock_off_seconds ? '' : `${m.clock_off_seconds < 0 ? '−' : '+'}${Math.abs(m.clock_off_seconds).toFixed(2)} s`);
    setText(version, m.version ?? '');
    setText(free, bytes(m.described?.free_bytes));
    keep(act, [m.actions, m.leader, m.name, why], () => h('div.actions', null, m.actions.map((/** @type {string} */ a) => {
      const label = words.action[a === 'transfer' && m.leader ? 'away' : a] ?? a;
      return h('button.small', { type: 'button', disabled: Boolean(why), title: why, data: { act: a }, aria: { label: `${label} ${m.name}` }, onclick: () => this.ask(a, m) }, label);
    })));
  }

  /** Which node holds how much of which image. @param {any[]} members */
  images(members) {
    const images = [...this.app.store.images.values()].sort((a, b) => a.name.localeCompare(b.name));
    const part = (/** @type {any} */ m, /** @type {any} */ i) => m.described?.images?.[i.digest] ?? { have: 0, total: 0 };
    keep(this.held, images.map((i) => [i.name, members.map((m) => [m.name, part(m, i)])]), () => images.length && members.length
      ? h('table.plain', null, h('thead', null, h('tr', null, h('th', { scope: 'col' }, 'Image'), members.map((m) => h('th', { scope: 'col' }, m.name)))),
        h('tbody', null, images.map((i) => h('tr', null, h('th', { scope: 'row' }, i.name), members.map((m) => h('td', null, holds(part(m, i))))))))
      : h('p.soft', null, words.noImages));
  }

  /** The command for one more node, with a token made now. */
  async token() {
    if (document.querySelector('dialog[open]')) return;
    const inside = h('div', { aria: { live: 'polite' } }, h('p.soft', null, 'Asking for a token…'));
    show({ title: 'Add a node', cancel: 'Close', body: [inside] });
    try {
      const t = await api.token();
      const command = h('pre', { tabIndex: 0 }, `lpmos up --join ${t.token} ${t.address}`);
      inside.replaceChildren(h('p', null, 'Run this on the new node:'), command,
        h('p', null, `The token is good for one node, once, until ${stamp(t.expires_at, this.app.store.now())}. The node stands by until it knows everything, then it is given a vote if one is needed.`));
      getSelection()?.selectAllChildren(command);
    } catch (e) {
      inside.replaceChildren(complaint(e));
    }
  }

  /** Asks before it acts, and says what it means. @param {string} action @param {any} m */
  ask(action, m) {
    const here = m.id === this.view.node;
    const q = {
      promote: { title: `Give ${m.name} a vote?`, button: `Give ${m.name} a vote`, says: ['It takes part in what is decided.', words.odd], run: () => api.promote(m.id) },
      demote: { title: `Take the vote of ${m.name}?`, button: `Take its vote`, says: ['It goes on serving machines and people, and knows everything; it has no say in what is decided.', words.odd], run: () => api.demote(m.id) },
      transfer: m.leader
        ? { title: `Hand over the lead of ${m.name}?`, button: 'Hand over', says: ['Another voter leads. Nothing is lost, and nothing fails; what is asked for meanwhile waits for a moment.'], run: () => api.transfer('') }
        : { title: `Let ${m.name} lead?`, button: `Let ${m.name} lead`, says: ['It puts what is decided into the log from then on. Nothing is lost, and nothing fails; what is asked for meanwhile waits for a moment.'], run: () => api.transfer(m.id) },
      remove: { title: `Remove ${m.name} from the cluster?`, button: `Remove ${m.name}`, danger: true, run: () => api.removeNode(m.id), says: [
        here && 'It is the node whose dashboard this is: the page goes on at another one.',
        `It hears of nothing any more. Machines on networks that ${m.name} alone serves are not booted, and installs that run there go on at another node only if that one can be reached from them.`,
        'To come back it has to join anew, with an empty data directory.',
        m.voter && words.odd] },
    }[action];
    if (!q || document.querySelector('dialog[open]')) return;
    const wrong = h('div');
    const yes = h(q.danger ? 'button.danger' : 'button.primary', { type: 'button', data: { confirm: action }, onclick: async () => {
      yes.disabled = true;
      try {
        await q.run();
        d.close();
      } catch (e) {
        wrong.replaceChildren(complaint(e));
        yes.disabled = false;
      }
    } }, q.button);
    const d = show({ title: q.title, narrow: true, body: [q.says.filter(Boolean).map((s) => h('p', null, s)), wrong], buttons: [yes] });
    yes.focus();
  }
}

/** How much of an image a node holds, with a bar while it is a part. @param {{have: number, total: number}} p */
function holds(p) {
  if (p.have === 0) return h('span.soft', null, words.none);
  if (p.have >= p.total) return state('installed', words.chunks(p.have, p.total));
  const fill = h('i');
  fill.style.transform = `scaleX(${(p.have / p.total).toFixed(4)})`;
  return h('span.part', { data: { phase: 'installing' } }, h('span.track', { aria: { hidden: 'true' } }, fill), words.chunks(p.have, p.total));
}
