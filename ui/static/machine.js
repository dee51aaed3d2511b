// @ts-check
// One machine, or one task whose machine has not been seen: what it is, what
// lies on its disks, what is planned, and what happened so far.

import { api } from './api.js';
import { disks } from './disks.js';
import { h, keep, state } from './html.js';
import { stallNote, timeline } from './timeline.js';
import { bytes, clock, duration, memory, plural, rate, stamp, text, when } from './text.js';

const stages = [['partitioning', 20], ['downloading', 60], ['installing', 90], ['configuring', 100]];
const quiet = ['reject', 'cancel', 'delete', 'forget', 'protect', 'unprotect'];

export class Page {
  constructor(root, app, id) {
    this.app = app;
    this.id = id;
    /** @type {any} */ this.full = null;
    /** @type {any} */ this.task = null;
    /** What its MAC did, of a machine that nobody knows yet. @type {any} */ this.wire = null;
    /** @type {any[]} */ this.earlier = [];
    this.problem = '';
    this.part = {};
    const part = (/** @type {string} */ name, /** @type {string} */ tag = 'section.card') => (this.part[name] = h(tag, { hidden: true }));
    root.replaceChildren(h('article.sheet', null,
      h('header', null, h('a.crumb', { href: '#/' }, '← Machines'), part('head', 'div'), part('notes', 'div'), part('actions', 'div.actions'), part('way', 'div.way')),
      part('timeline'), part('disks'), h('div.columns', null, part('plan'), part('log'), part('hardware'), part('memory'), part('nics')), part('earlier'), part('raw', 'div')));
    this.onframe = (/** @type {any} */ e) => this.frame(e.detail);
    app.store.addEventListener('frame', this.onframe);
    this.load();
  }

  leave() {
    this.app.store.removeEventListener('frame', this.onframe);
    clearTimeout(this.timer);
  }

  get row() { return this.app.store.find(this.id); }

  frame(f) {
    const mine = f.machine_id === this.id || f.machine?.id === this.id || f.task?.machine_id === this.id || f.task?.id === this.id;
    if (f.type === 'sighting' && (this.full?.ids?.macs?.includes(f.mac) || f.mac === this.row?.mac) || (mine && f.type !== 'progress') || f.type === 'snapshot' || f.type === 'resumed') this.later();
  }

  /** Asks for what only GET one tells, once for a burst of events. */
  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.load(), 250);
  }

  async load() {
    try {
      const row = this.row;
      if (row && !row.machine) [this.task, this.wire] = await Promise.all([api.task(row.task.id), api.wire(row.mac).catch(() => null)]);
      else {
        this.full = await api.machine(this.id);
        [this.task, this.earlier] = await Promise.all([
          this.full.task_id ? api.task(this.full.task_id).catch(() => null) : null,
          api.tasksOf(this.id).then((r) => r.tasks ?? r.items ?? [], () => []),
        ]);
      }
      this.problem = '';
    } catch (e) {
      // A task that found its machine goes on as that machine.
      const t = this.app.store.tasks.get(this.id);
      if (t?.machine_id) return this.app.go(`#/m/${t.machine_id}`);
      this.problem = e instanceof Error ? e.message : String(e);
    }
    this.app.dirty();
  }

  /** @param {boolean} tick */
  paint(tick) {
    const row = this.row;
    const t = this.app.store.tasks.get(this.id);
    if (!row && t?.machine_id) return this.app.go(`#/m/${t.machine_id}`);
    if (!row) {
      this.show('head', [this.problem, this.app.store.known], () => this.app.store.known && [h('h1', null, 'Not here any more'), h('p', null, this.problem || 'This machine was forgotten, or the address is wrong.')]);
      return;
    }
    const why = this.app.why();
    this.show('head', [row.name, row.phase, row.says, row.question], () => [
      h('div.headline', null, h('h1', null, row.name), state(row.phase, row.question ? 'question' : text.phase[row.phase])), h('p', null, row.says)]);
    this.show('notes', [row.stall, row.task?.error, row.question, row.machine?.rival, row.machine?.unfinished, row.machine?.next_boot, row.machine?.last_boot, row.machine?.not_booted, row.machine?.protected, row.machine?.held, row.machine?.troubles, row.task?.held, row.task?.review, row.task?.first_word, row.task?.came_up, this.problem, row.task?.problem], () => this.notes(row));
    this.show('actions', [row.actions, row.question, why], () => row.actions.map((/** @type {string} */ a) => h(a === row.button ? 'button.primary' : 'button', {
      type: 'button', disabled: Boolean(why), title: why, data: { act: a }, onclick: () => this.app.act(a, row) }, text.action[a] ?? a)));
    this.way(row);
    const inv = this.full?.inventory ?? this.task?.hardware;
    const plan = row.task?.plan;
    const dies = plan && ['waiting', 'queued'].includes(row.phase) ? plan.erase : null;
    this.show('disks', [inv?.disks, dies], () => inv?.disks && [h('h2', null, 'Disks'), inv.disks.length ? disks(inv.disks, dies) : h('p.soft', null, 'The agent found no disk.')]);
    this.show('plan', [row.task, row.machine?.installed, tick && row.working], () => this.plan(row));
    this.show('log', [row.task?.logs, this.task?.logs?.length], () => this.log(row));
    this.show('timeline', [(this.full ?? this.wire)?.timeline], () => { const known = this.full ?? this.wire; return known && timeline(known.timeline ?? []); });
    this.show('hardware', [inv, row.machine?.ids], () => inv && this.hardware(inv, row));
    this.show('memory', [inv?.memory], () => inv?.memory?.dimms?.length && this.memory(inv.memory));
    this.show('nics', [inv?.nics], () => inv?.nics?.length && this.nics(inv.nics));
    this.show('earlier', this.earlier, () => this.earlier.length > 1 && this.others());
    this.show('raw', [Boolean(this.full ?? this.task)], () => (this.full ?? this.task) && this.raw());
  }

  /** @param {string} name @param {any} data @param {() => any} make */
  show(name, data, make) {
    const el = this.part[name];
    keep(el, data, () => { const got = make(); el.hidden = !got || (Array.isArray(got) && !got.flat(Infinity).some(Boolean)); return got || []; });
  }

  notes(row) {
    const m = row.machine, t = row.task;
    const s = row.stall;
    return [
      s && stallNote(s, this.app.store.now()),
      t?.error && h('div.note.bad', null, h('p', null, h('b', null, t.error.message)), t.error.details && h('p.mono', null, t.error.details), h('p.soft', null, t.error.code)),
      (m?.held ?? t?.held) && h('div.note.bad', { role: 'alert' }, h('p', null, h('b', null, 'Held: '), `${(m?.held ?? t?.held).reason}.`), h('p', null, `It waits since ${stamp((m?.held ?? t?.held).since, this.app.store.now())}, with its screen saying so. Look at the console of the machine, then release it.`)),
      t?.review && t.status === 'needs_review' && h('p.note.bad', null, h('b', null, 'Nothing is written until you look again: '), t.review),
      t?.first_word && h('p.note', null, `${t.first_word.by || 'Somebody'} has approved this plan at ${stamp(t.first_word.at, this.app.store.now())}. It takes a second person.`),
      m?.next_boot && h('p.note', null, h('b', null, `Boots ${m.next_boot.profile} once: `), `asked by ${m.next_boot.by || 'somebody'}; ${m.next_boot.waits}. Until ${stamp(m.next_boot.expires, this.app.store.now())}.`, m.next_boot.erases && ` It may erase disk ${m.next_boot.disk}.`),
      m?.not_booted && h('p.note', null, `${m.not_booted.reason[0].toUpperCase()}${m.not_booted.reason.slice(1)}.`),
      m?.last_boot && h('p.note', null, `Booted ${m.last_boot.profile} at ${stamp(m.last_boot.at, this.app.store.now())}, as asked by ${m.last_boot.by || 'somebody'}${m.last_boot.disk ? `, which was allowed to erase disk ${m.last_boot.disk}` : ''}.`),
      m?.protected && h('p.note.good', null, 'Protected: nothing is approved for this machine.'),
      m?.unfinished && !row.working && h('p.note.bad', null, 'Its disk holds an unfinished install and does not boot.'),
      m?.troubles?.map((/** @type {string} */ s) => h('p.note', null, s)),
      t?.problem && t.problem !== row.says && h('p.note', null, t.problem),
      t?.came_up && row.phase === 'installed' && h('p.note.good', null, ['Came up from its own disk', `at ${stamp(t.came_up.at, this.app.store.now())}`, t.came_up.hostname && `as ${t.came_up.hostname}`, t.came_up.ip && `with ${t.came_up.ip}`].filter(Boolean).join(' ') + '.'),
      this.problem && h('p.note.bad', null, this.problem),
    ];
  }

  /** The bar moves by itself; the words under it name the four stages. */
  way(row) {
    const el = this.part.way;
    el.hidden = row.bar === null;
    if (el.hidden) return;
    el.dataset.phase = row.phase;
    const p = row.task?.progress ?? {};
    const d = p.details ?? {};
    if (!this.fill) {
      this.fill = h('i');
      this.track = h('div.track', { role: 'progressbar', aria: { valuemin: '0', valuemax: '100', label: 'Install' } }, this.fill);
      this.steps = h('ol');
      this.figures = h('p.soft');
      el.append(this.track, this.steps, this.figures);
    }
    const pc = row.bar;
    this.fill.style.transform = `scaleX(${(pc / 100).toFixed(4)})`;
    this.track.setAttribute('aria-valuenow', String(Math.round(pc)));
    this.track.setAttribute('aria-valuetext', row.says);
    keep(this.steps, p.stage ?? '', () => stages.map(([s]) => h('li', { aria: s === p.stage ? { current: 'step' } : {} }, s)));
    const started = when(row.task?.started_at);
    const left = pc > 5 && pc < 100 && started ? (this.app.store.now() - started) * (100 - pc) / pc : 0;
    const says = [`${pc.toFixed(1)} %`, p.message !== p.stage && p.message, d.bytes_total ? `${bytes(d.bytes_downloaded)} of ${bytes(d.bytes_total)} fetched` : '', d.bytes_written && `${bytes(d.bytes_written)} written`, rate(row.speed), left > 0 && `about ${duration(left)} left`].filter(Boolean).join(' · ');
    if (this.figures.textContent !== says) this.figures.textContent = says;
  }

  plan(row) {
    const t = row.task, m = row.machine;
    if (!t && !m?.installed) return null;
    const now = this.app.store.now();
    const took = t && when(t.finished_at) - when(t.started_at);
    const fb = t?.plan?.first_boot ?? t?.network_config ?? {};
    return [h('h2', null, t ? 'Task' : 'Installed'), facts([
      ['Image', t?.image ?? m.installed.image], ['Disk', t?.plan ? [bytes(t.plan.erase.size_bytes), t.plan.erase.model, t.plan.erase.serial || t.plan.erase.wwn].filter(Boolean).join(' ') : t?.disk_layout?.disk],
      ['Stays as it is', t?.plan?.untouched?.length ? t.plan.untouched.map((/** @type {any} */ d) => `${bytes(d.size_bytes)} ${d.serial || d.wwn}`).join(', ') : ''],
      ['Host name', fb.hostname], ['SSH keys', fb.ssh_keys?.length ? plural(fb.ssh_keys.length, 'key', 'keys') : ''],
      ['Approved', t?.approval ? `${t.approval.approved ? 'by' : 'rejected by'} ${t.approval.by || 'operator'} at ${stamp(t.approval.at, now)}${t.approval.notes ? `: ${t.approval.notes}` : ''}` : ''],
      ['Created', t && stamp(t.created_at, now)], ['Began to write', t && stamp(t.started_at, now)], ['Ended', t && stamp(t.finished_at, now) + (took > 0 ? `, after ${duration(took)}` : '')],
      ['On this machine', m?.installed && `${m.installed.image} since ${stamp(m.installed.at, now)}`], ['Task', t && h('span.mono', null, `${t.id}, generation ${t.generation}`)],
    ])];
  }

  log(row) {
    const logs = row.task?.logs ?? this.task?.logs;
    if (!row.task) return null;
    return [h('h2', null, 'Log'), logs?.length
      ? h('ol.lines', { tabIndex: 0, aria: { label: 'Log of the task' } }, [...logs].reverse().map((/** @type {any} */ l) => h('li', null, h('time', { title: l.at }, clock(l.at)), h('span', null, l.text))))
      : h('p.soft', null, text.empty.log)];
  }

  hardware(inv, row) {
    const s = inv.system ?? {}, f = inv.firmware ?? {}, c = inv.cpu ?? {};
    const ids = row.machine?.ids ?? {};
    return [h('h2', null, 'Hardware'), facts([
      ['System', [s.vendor, s.product].filter(Boolean).join(' ')], ['Serial', mono(s.serial)], ['UUID', mono(ids.uuid || s.uuid)], ['Board', [s.board_vendor, s.board_product, s.board_serial].filter(Boolean).join(' ')],
      ['Chassis', mono(s.chassis_serial)], ['Asset tag', s.asset_tag],
      ['CPU', c.model], ['', c.threads && [plural(c.sockets, 'socket', 'sockets'), plural(c.cores, 'core', 'cores'), plural(c.threads, 'thread', 'threads'), c.numa_nodes > 1 && `${c.numa_nodes} NUMA nodes`, c.microcode && `microcode ${c.microcode}`].filter(Boolean).join(', ')],
      ['Memory', memory(inv.memory?.total_bytes)], ['Firmware', [f.mode?.toUpperCase(), f.vendor, f.version, f.date].filter(Boolean).join(' ') + (f.secure_boot ? ', secure boot on' : '')],
      ['BMC', inv.bmc && [inv.bmc.interface, inv.bmc.firmware, inv.bmc.ip].filter(Boolean).join(', ')], ['TPM', inv.tpm && `${inv.tpm.version} ${inv.tpm.description ?? ''}`],
      ['PCI', inv.pci?.length && plural(inv.pci.length, 'function', 'functions')], ['Virtual', inv.virtualization],
      ['Pairing code', mono(row.machine?.pairing_code)],
      ['Trust', row.machine && `tier ${row.machine.trust_tier}${row.machine.trust_tier === 0 ? ": by the rack's network alone" : ''}`],
      ['First seen', stamp(row.machine?.first_seen, this.app.store.now())], ['Reported', stamp(row.machine?.reported_at, this.app.store.now())],
    ]), inv.truncated && h('p.note', null, 'It reported more than the node keeps; the lists are cut.')];
  }

  memory(mem) {
    return [h('h2', null, 'Memory modules'), table(['Slot', 'Size', 'Type', 'Part'], mem.dimms.map((/** @type {any} */ d) => [d.slot, memory(d.size_bytes), [d.type, d.speed_mts && `${d.speed_mts} MT/s`].filter(Boolean).join(' '), [d.manufacturer, d.part].filter(Boolean).join(' ')]))];
  }

  nics(nics) {
    return [h('h2', null, 'Network cards'), table(['Name', 'MAC', 'Link', 'Driver', 'Address'], nics.map((/** @type {any} */ n) => [n.name, mono(n.mac), n.link ? (n.speed_mbps ? `${n.speed_mbps / 1000} Gbit/s` : 'up') : 'down', n.driver, [n.ip || this.full?.assigned?.[n.mac] || this.full?.addresses?.[n.mac], n.boot && 'boots from it'].filter(Boolean).join(', ')]))];
  }

  others() {
    return [h('h2', null, 'Tasks of this machine'), table(['State', 'Image', 'Created', 'What happened'], this.earlier.map((t) => [state(t.phase, t.status.replaceAll('_', ' ')), t.image, stamp(t.created_at, this.app.store.now()), t.phase_text]))];
  }

  raw() {
    const pre = h('pre', { tabIndex: 0 });
    return h('details', { ontoggle: (/** @type {any} */ e) => { if (e.target.open) pre.textContent = JSON.stringify({ machine: this.full ?? undefined, task: this.task ?? undefined }, null, 2); } }, h('summary', null, 'Everything, as the API tells it'), pre);
  }
}

/** @param {[string, any][]} pairs */
function facts(pairs) {
  return h('dl.facts', null, pairs.filter(([, v]) => v).map(([k, v]) => [h('dt', null, k), h('dd', null, v)]));
}

/** @param {string|undefined} s */
function mono(s) { return s ? h('span.mono', null, s) : ''; }

/** @param {string[]} heads @param {any[][]} rows */
function table(heads, rows) {
  return h('div.wide', { tabIndex: 0, role: 'region', aria: { label: heads.join(', ') } }, h('table.plain', null,
    h('thead', null, h('tr', null, heads.map((x) => h('th', { scope: 'col' }, x)))), h('tbody', null, rows.map((r) => h('tr', null, r.map((c) => h('td', null, c)))))));
}
