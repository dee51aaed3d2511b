// @ts-check
// What the page hears and knows: one socket is the only input, and a store keeps
// machines and tasks as the node last told them, joined into rows, searched,
// counted and put in order. No DOM, so that Node tests it. The node decides
// phases and actions; nothing here knows a rule of the fleet.

import { text, when } from './text.js';

export const phases = ['discovered', 'waiting', 'queued', 'erasing', 'installing', 'installed', 'failed', 'lost'];
const groups = ['needs', 'fresh', 'working', 'rest'];
const groupOf = {
  waiting: 'needs', failed: 'needs', lost: 'needs', discovered: 'fresh',
  queued: 'working', erasing: 'working', installing: 'working', installed: 'rest',
};
const urgency = ['waiting', 'failed', 'lost', 'erasing', 'installing', 'queued', 'discovered', 'installed'];
/** What one press of the row's button does, the first that the node allows. */
const primary = ['release', 'resolve', 'settle', 'approve', 'retry', 'install'];
const compare = new Intl.Collator('en', { numeric: true }).compare;

/** One line of the fleet: a machine with its task, or a task whose machine has not been seen. */
export class Row {
  /** @param {string} key "m/ID" or "t/ID" */
  constructor(key) {
    this.key = key;
    /** @type {any} */ this.machine = null;
    /** @type {any} */ this.task = null;
    this.version = 0;
    this.name = '';
    this.phase = 'discovered';
    this.group = 'rest';
    this.words = '';
  }

  /** Works out what follows from the two views. */
  derive() {
    const m = this.machine, t = this.task;
    this.version++;
    this.name = m?.name || t?.network_config?.hostname || text.newMachineName(t?.target_mac ?? '');
    this.phase = (m ?? t).phase;
    this.group = this.question || this.stall ? 'needs' : groupOf[this.phase] ?? 'rest';
    this.words = [this.name, this.serial, this.mac, this.ip, this.image, m?.ids?.uuid, ...(m?.ids?.macs ?? []),
      m?.summary?.vendor, m?.summary?.product, this.key.slice(2), t?.id].filter(Boolean).join('\n').toLowerCase();
  }

  get says() { return this.question || (this.machine ?? this.task)?.phase_text || ''; }
  get question() { return this.machine?.question ?? ''; }
  /** Why it does not go on, or null. @returns {any} */
  get stall() { return (this.machine ?? this.task)?.stall ?? null; }
  get serial() { return this.machine?.ids?.serial ?? ''; }
  get mac() { return this.task?.target_mac || this.machine?.ids?.macs?.[0] || ''; }
  get ip() { return this.machine ? this.machine.assigned?.[this.mac] || this.machine.addresses?.[this.mac] || this.machine.agent_ip || '' : ''; }
  get image() { return (this.working || this.task?.phase === 'waiting' ? this.task?.image : '') || this.machine?.installed?.image || this.task?.image || ''; }
  get working() { return this.phase === 'installing' || this.phase === 'erasing'; }
  get percent() { return this.task?.progress?.percentage ?? 0; }
  /** How full the bar is, or null for none. A disk that is written stays full until its system comes up. */
  get bar() { return this.working ? this.percent : this.task?.status === 'completed' && !this.task.came_up ? 100 : null; }
  /** Megabits a second, while there are any. */
  get speed() { return this.phase === 'installing' ? this.task?.progress?.details?.speed_mbps ?? 0 : 0; }
  get seen() { return this.machine ? latest(this.machine.contact_at, this.machine.reported_at) : when(this.task?.created_at); }
  /** What a person may do, as the node says, without doubles. @returns {string[]} */
  get actions() { return [...new Set([...(this.task?.actions ?? []), ...(this.machine?.actions ?? [])])]; }
  get primary() { return primary.find((a) => this.actions.includes(a)) ?? ''; }
  /** The button in the table: a system that runs is not one slip away from being installed again. */
  get button() { return this.phase === 'installed' ? '' : this.primary; }
}

/** @param {...(string|undefined)} times */
function latest(...times) {
  const known = times.map(when).filter((n) => !Number.isNaN(n));
  return known.length ? Math.max(...known) : NaN;
}

export class Store extends EventTarget {
  constructor(now = Date.now) {
    super();
    this.clock = now;
    this.reset();
  }

  reset() {
    /** @type {Map<string, Row>} */ this.rows = new Map();
    /** @type {Map<string, any>} */ this.machines = new Map();
    /** @type {Map<string, any>} */ this.tasks = new Map();
    /** @type {Map<string, any>} */ this.images = new Map();
    /** @type {any[]} */ this.nodes = [];
    /** How the cluster looks from the node, null if it is of none. @type {any} */ this.cluster = null;
    this.stats = {};
    this.index = 0;
    this.offset ??= 0;
    this.heard = 0;
    this.known ??= false;
    /** Bumped when the set, the order or the phases of rows may have changed. */
    this.shape = (this.shape ?? 0) + 1;
  }

  /** The node's time in ms: a laptop with a wrong clock shows no age of -3 s. */
  now() { return this.clock() + this.offset; }

  /** Takes one frame of the socket. @param {any} f */
  take(f) {
    const at = when(f.time);
    if (!Number.isNaN(at)) this.offset = at - this.clock();
    this.heard = this.clock();
    if (f.index > this.index) this.index = f.index;
    switch (f.type) {
      case 'snapshot': this.#snapshot(f); break;
      case 'progress': this.#progress(f); break;
      case 'progress_batch': for (const item of f.items ?? []) this.#progress(item); break;
      case 'task_deleted': this.#deleteTask(f.task_id); break;
      case 'machine_deleted': this.#deleteMachine(f.machine_id); break;
      case 'image': if (f.image) this.images.set(f.image.name, f.image); break;
      case 'image_deleted': this.images.delete(f.name ?? f.image?.name); break;
      case 'node': if (f.node?.id) this.nodes = [...this.nodes.filter((n) => n.id !== f.node.id), f.node]; break;
      case 'node_deleted': this.nodes = this.nodes.filter((n) => n.id !== f.id); break;
      case 'cluster': this.cluster = f.cluster ?? this.cluster; break;
      case 'stats': this.stats = f.stats ?? this.stats; break;
      case 'hello': case 'resumed': case 'sighting': case 'import': case 'audit': case 'pong': case 'error': break;
      default:
        if (f.task) this.#task(f.task, !f.machine);
        if (f.machine) this.#machine(f.machine);
    }
    this.dispatchEvent(new CustomEvent('frame', { detail: f }));
  }

  #snapshot(f) {
    const before = this.rows;
    this.reset();
    this.index = f.index ?? 0;
    this.known = true;
    this.stats = f.stats ?? {};
    this.nodes = f.nodes ?? [];
    this.cluster = f.cluster ?? null;
    for (const i of f.images ?? []) this.images.set(i.name, i);
    for (const t of f.tasks ?? []) this.tasks.set(t.id, t);
    for (const m of f.machines ?? []) {
      this.machines.set(m.id, m);
      this.#put(`m/${m.id}`, m, this.tasks.get(m.task_id) ?? null, before);
    }
    for (const t of this.tasks.values()) this.#lone(t, before);
  }

  #put(key, machine, task, from = this.rows) {
    const row = this.rows.get(key) ?? from.get(key) ?? new Row(key);
    const was = row.phase;
    row.machine = machine;
    row.task = task;
    row.derive();
    this.rows.set(key, row);
    this.shape++;
    if (was !== row.phase && this.known) this.dispatchEvent(new CustomEvent('moved', { detail: { row, was } }));
  }

  /** A task whose machine has not been seen is a row of its own. */
  #lone(t, from) {
    const key = `t/${t.id}`;
    if (this.machines.has(t.machine_id)) {
      if (this.rows.delete(key)) this.shape++;
    } else {
      this.#put(key, null, t, from);
    }
  }

  #machine(m) {
    this.machines.set(m.id, m);
    const t = this.tasks.get(m.task_id) ?? null;
    this.#put(`m/${m.id}`, m, t);
    if (t) this.#lone(t);
  }

  /** @param {any} t @param {boolean} alone the frame brought no machine with it */
  #task(t, alone) {
    this.tasks.set(t.id, t);
    this.#lone(t);
    const m = this.machines.get(t.machine_id);
    if (!m) return;
    const newest = !this.tasks.has(m.task_id) || m.task_id === t.id || this.tasks.get(m.task_id).created_at <= t.created_at;
    if (!newest) return;
    const next = alone && !m.question ? { ...m, task_id: t.id, phase: t.phase, phase_text: t.phase_text, lost: false } : { ...m, task_id: t.id };
    this.machines.set(m.id, next);
    this.#put(`m/${m.id}`, next, t);
  }

  /** Replaces one number in one row; its place changes only if the phase does. */
  #progress(p) {
    const t = this.tasks.get(p.task_id);
    if (!t) return;
    t.progress = p.progress ?? t.progress;
    if (p.phase) { t.phase = p.phase; t.phase_text = p.phase_text ?? t.phase_text; }
    const m = this.machines.get(t.machine_id);
    const row = this.rows.get(m ? `m/${m.id}` : `t/${t.id}`);
    if (!row || row.task !== t) return;
    // A lost machine is found when the node says so; an old figure does not find it.
    if (m && p.phase && !m.lost) { m.phase = p.phase; m.phase_text = p.phase_text ?? m.phase_text; }
    row.version++;
    const phase = (m ?? t).phase;
    if (phase !== row.phase) this.#put(row.key, m ?? null, t);
  }

  #deleteTask(id) {
    const t = this.tasks.get(id);
    this.tasks.delete(id);
    if (this.rows.delete(`t/${id}`)) this.shape++;
    const row = t && this.rows.get(`m/${t.machine_id}`);
    if (row && row.task?.id === id) this.#put(row.key, row.machine, null);
  }

  #deleteMachine(id) {
    this.machines.delete(id);
    if (this.rows.delete(`m/${id}`)) this.shape++;
  }

  /** How many rows are in each phase, and how many want a person. */
  counts() {
    /** @type {Record<string, number>} */
    const n = { all: this.rows.size, needs: 0 };
    for (const p of phases) n[p] = 0;
    for (const r of this.rows.values()) {
      n[r.phase]++;
      if (r.group === 'needs') n.needs++;
    }
    return n;
  }

  /** Installs that run now and the bytes a second they draw together. */
  load() {
    let running = 0, mbps = 0;
    for (const r of this.rows.values()) {
      if (!r.working) continue;
      running++;
      mbps += r.speed;
    }
    return { running, bps: mbps * 125000 };
  }

  /** The row of a machine or task id. @param {string} id */
  find(id) { return this.rows.get(`m/${id}`) ?? this.rows.get(`t/${id}`) ?? null; }

  /**
   * The lines of the table in order: rows that match, and with the default
   * order a heading before each group.
   * @param {string} query @param {string} sort "" | "name" | "image" | "seen" | "state", "-" in front turns it round
   * @returns {(Row|{group:string, n:number})[]}
   */
  lines(query, sort) {
    const match = matcher(query);
    const rows = [...this.rows.values()].filter(match);
    const down = sort.startsWith('-');
    const key = down ? sort.slice(1) : sort;
    const by = orders[key];
    if (by) {
      rows.sort((a, b) => (down ? -1 : 1) * by(a, b) || compare(a.name, b.name));
      return rows;
    }
    rows.sort((a, b) => groups.indexOf(a.group) - groups.indexOf(b.group) || orders.state(a, b) || compare(a.name, b.name) || compare(a.key, b.key));
    const out = [];
    let head = null;
    for (const r of rows) {
      if (r.group !== head?.group) out.push(head = { group: r.group, n: 0 });
      head.n++;
      out.push(r);
    }
    return out;
  }
}

/** @type {Record<string, (a: Row, b: Row) => number>} */
const orders = {
  state: (a, b) => urgency.indexOf(a.phase) - urgency.indexOf(b.phase),
  name: (a, b) => compare(a.name, b.name),
  image: (a, b) => compare(a.image, b.image),
  serial: (a, b) => compare(a.serial, b.serial),
  seen: (a, b) => (b.seen || 0) - (a.seen || 0),
};

/** @type {Record<string, (r: Row, v: string) => boolean>} */
const fields = {
  state: (r, v) => r.phase === v,
  needs: (r) => r.group === 'needs',
  is: (r, v) => v === 'stalled' && Boolean(r.stall),
  name: (r, v) => r.name.toLowerCase().includes(v),
  mac: (r, v) => [r.mac, ...(r.machine?.ids?.macs ?? [])].some((m) => m.includes(v)),
  serial: (r, v) => r.serial.toLowerCase().includes(v),
  image: (r, v) => r.image.toLowerCase().includes(v),
  ip: (r, v) => r.ip.includes(v),
  vendor: (r, v) => `${r.machine?.summary?.vendor} ${r.machine?.summary?.product}`.toLowerCase().includes(v),
  region: (r, v) => (r.machine ?? r.task)?.region_id === v,
  task: (r, v) => r.task?.id === v,
};

/**
 * Turns a search into a test of rows. Words are joined by and; "field:value"
 * looks in one field, "state:a,b" takes either, "-word" excludes.
 * @param {string} query @returns {(r: Row) => boolean}
 */
export function matcher(query) {
  const tests = query.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
    const not = word.length > 1 && word.startsWith('-');
    const w = not ? word.slice(1) : word;
    const colon = w.indexOf(':');
    const field = colon > 0 ? fields[w.slice(0, colon)] : undefined;
    const value = w.slice(colon + 1);
    const test = field
      ? (/** @type {Row} */ r) => !value || value.split(',').some((v) => v && field(r, v))
      : (/** @type {Row} */ r) => r.words.includes(w);
    return not ? (/** @type {Row} */ r) => !test(r) : test;
  });
  return (r) => tests.every((t) => t(r));
}

/** Waits before the n-th new attempt, in ms: 0.5 s doubling to 15 s, half of it by chance. @param {number} n */
export function backoff(n, random = Math.random) {
  const top = Math.min(15000, 500 * 2 ** n);
  return top / 2 + random() * top / 2;
}

/** The close code of a session that has ended. */
const signedOut = 4401;

/**
 * Keeps one socket to the node open. It comes back by itself after the wait that
 * backoff names, at once when the browser is online or looked at again, and asks
 * for what it missed. Fires "link" with its state: connecting, catching, live,
 * reconnecting or offline.
 */
export class Socket extends EventTarget {
  /**
   * @param {Store} store takes every frame
   * @param {{open: (path: string) => WebSocket, later?: typeof setTimeout, online?: () => boolean, random?: () => number}} env
   */
  constructor(store, env) {
    super();
    this.store = store;
    this.env = { later: (f, ms) => setTimeout(f, ms), online: () => true, random: Math.random, ...env };
    this.link = 'connecting';
    this.node = '';
    this.version = '';
    /** Who this page is signed in as, once the node has said. @type {any} */ this.who = null;
    this.attempt = 0;
    /** When the next attempt is due, by the store's own clock. */
    this.due = 0;
    /** @type {string[]} */ this.visible = [];
    /** @type {WebSocket|null} */ this.ws = null;
    /** @type {any} */ this.timer = 0;
  }

  /** Opens the socket now, whatever was planned. */
  connect() {
    clearTimeout(this.timer);
    if (this.ws) return;
    const since = this.store.known ? this.store.index : 0;
    this.greeted = false;
    const ws = this.ws = this.env.open(since ? `/ws?since=${since}` : '/ws');
    this.#set(this.store.known ? 'reconnecting' : 'connecting');
    ws.onmessage = (e) => { if (this.ws === ws) this.#frame(JSON.parse(e.data)); };
    ws.onclose = (e) => {
      // The node ends the sockets of a session that has ended; one that it does not
      // even open may be for the same reason, which a browser does not tell.
      const told = e?.code === signedOut;
      const doubt = told || this.ws === ws && !this.greeted;
      this.#lost(ws);
      if (doubt) this.dispatchEvent(new CustomEvent('doubt', { detail: told }));
    };
    ws.onerror = () => ws.close();
    // A connection that neither opens nor speaks in 10 s is given up.
    this.timer = this.env.later(() => { if (this.ws === ws && !this.live) { ws.close(); this.#lost(ws); } }, 10000);
  }

  get live() { return this.link === 'live'; }

  /** Gives up: the page is about to ask who is there. */
  stop() {
    clearTimeout(this.timer);
    const ws = this.ws;
    this.ws = null;
    this.connect = () => {};
    ws?.close();
  }

  /** The browser woke up: try at once, or find out whether the socket still is one. */
  nudge() {
    const ws = this.ws;
    if (!ws) {
      this.attempt = 0;
      this.connect();
      return;
    }
    if (!this.live) return;
    const heard = this.store.heard;
    this.#send({ type: 'ping' });
    this.env.later(() => { if (this.ws === ws && this.store.heard === heard) { ws.close(); this.#lost(ws); } }, 5000);
  }

  /** A node tells how the cluster is every few seconds. One that says nothing is asked whether it is there. */
  listen() { if (this.live && this.store.clock() - this.store.heard > 10000) this.nudge(); }

  /** Tells the node which machines are on the screen. @param {string[]} ids */
  show(ids) {
    if (ids.length === this.visible.length && ids.every((id, i) => id === this.visible[i])) return;
    this.visible = ids;
    this.#send({ type: 'subscribe', rows: ids });
  }

  #send(m) { if (this.live) this.ws?.send(JSON.stringify(m)); }

  #frame(f) {
    if (f.type === 'hello') {
      this.greeted = true;
      this.who = f.who ?? null;
      this.node = f.node ?? '';
      this.version = f.version ?? '';
      this.#set('catching');
    }
    this.store.take(f);
    if (f.type === 'snapshot' || f.type === 'resumed') {
      clearTimeout(this.timer);
      this.attempt = 0;
      this.#set('live');
      this.#send({ type: 'subscribe', rows: this.visible });
    }
  }

  #lost(ws) {
    if (this.ws !== ws) return;
    this.ws = null;
    clearTimeout(this.timer);
    const wait = backoff(this.attempt++, this.env.random);
    this.due = this.store.clock() + wait;
    this.#set(this.env.online() ? 'reconnecting' : 'offline');
    this.timer = this.env.later(() => this.connect(), wait);
  }

  #set(link) {
    this.link = link;
    this.dispatchEvent(new Event('link'));
  }
}
