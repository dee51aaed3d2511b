// @ts-check
// One dialog from a machine to an install: choose an image, read which disk
// dies, approve exactly that. It also reviews a task that waits, and makes tasks
// for machines that have not been seen.

import { api, Refused } from './api.js';
import { planDisks } from './disks.js';
import { complaint, show } from './dialogs.js';
import { h, keep } from './html.js';
import { bytes, contents, diskName, plural, text } from './text.js';

const macLike = /^([0-9a-f]{2}[:-]?){5}[0-9a-f]{2}$/i;

/** @param {any} app @param {"install"|"approve"|"create"} action @param {any} row */
export function open(app, action, row) {
  return new InstallDialog(app, action, row);
}

class InstallDialog {
  constructor(app, action, row) {
    this.app = app;
    this.action = action;
    this.row = row;
    /** @type {any} */ this.plan = null;
    this.hash = '';
    this.problem = '';
    this.confirm = '';
    /** @type {string[]} */ this.changed = [];
    this.busy = false;
    this.stale = false;
    this.moved = '';
    this.fields = {};
    this.wrong = h('div');
    this.notice = h('div');
    this.place = h('div', { aria: { live: 'polite' } });
    this.typed = h('input', { type: 'text', autocomplete: 'off', spellcheck: false, id: 'proof', oninput: () => this.buttons(), aria: { describedby: 'proof-hint' } });
    this.proofHint = h('span.hint', { id: 'proof-hint' });
    this.proofField = h('div.field', { hidden: true }, h('label', { htmlFor: 'proof' }, 'To erase it, type the last 4 characters of its serial number'), this.typed, this.proofHint);
    this.later = h('button', { type: 'button', onclick: () => this.send(false) }, 'Create task, approve later');
    this.go = h('button.danger', { type: 'button', data: { confirm: 'erase' }, onclick: () => this.send(true) });
    this.form = action === 'approve' ? null : this.makeForm();
    const title = { install: `Install ${row?.name}`, approve: `Approve the install of ${row?.name}?`, create: 'New task' }[action];
    this.onframe = () => this.follow();
    app.store.addEventListener('frame', this.onframe);
    app.socket.addEventListener('link', this.onframe);
    this.dialog = show({
      title, cancel: 'Close', buttons: [action === 'approve' ? null : this.later, this.go].filter(Boolean),
      body: [this.form, this.notice, this.place, this.proofField, this.wrong],
      closed: () => {
        app.store.removeEventListener('frame', this.onframe);
        app.socket.removeEventListener('link', this.onframe);
        this.asking?.abort();
        clearTimeout(this.timer);
      },
    });
    if (action === 'approve') this.read(row.task); else this.preview();
    if (action === 'approve') (this.proofField.hidden ? this.go : this.typed).focus();
  }

  makeForm() {
    const images = [...this.app.store.images.values()];
    const m = this.row?.machine;
    const before = this.row?.task;
    // What is on the screen is not what is asked for any more, until the node has answered.
    const change = () => {
      clearTimeout(this.timer);
      this.stale = true;
      this.buttons();
      this.timer = setTimeout(() => this.preview(), 250);
    };
    const field = (/** @type {string} */ name, /** @type {string} */ label, /** @type {any} */ input, hint = '') => {
      input.id = `f-${name}`;
      input.addEventListener('input', change);
      const wrong = h('span.wrong', { id: `w-${name}` });
      if (hint || wrong) input.setAttribute('aria-describedby', `w-${name} h-${name}`);
      this.fields[name] = { input, wrong };
      return h('div.field', null, h('label', { htmlFor: input.id }, label), input, h('span.hint', { id: `h-${name}` }, hint), wrong);
    };
    const spot = (/** @type {any} */ p) => h('input', { type: 'text', autocomplete: 'off', spellcheck: false, ...p });
    const target = this.action === 'create' && field('target_mac', 'Machine', spot({ placeholder: '52:54:00:12:34:56', list: 'known' }), 'A MAC address, seen or not yet, or the name or serial of a machine here.');
    const image = field('os_type', 'Image', h('select', null, images.map((i) => h('option', { value: i.name, selected: i.name === before?.image }, `${i.name}  (${bytes(i.size_bytes)})`))),
      images.length ? '' : 'There is no image yet: add one under Images, or on the node with lpmos image import.');
    const host = field('network_config.hostname', 'Host name', spot({ value: before?.network_config?.hostname ?? '', placeholder: m?.name ?? 'the machine\'s serial' }), 'Empty: as the machine is named.');
    const keys = field('network_config.ssh_keys', 'SSH keys', h('textarea', { rows: 2, placeholder: 'ssh-ed25519 AAAA… one a line', spellcheck: false, value: (before?.network_config?.ssh_keys ?? []).join('\n') }));
    const disk = m
      ? field('disk_layout.disk', 'Disk', h('select', null, h('option', { value: '' }, 'The smallest that fits'), (m.summary?.disks ?? []).map((/** @type {any} */ d) => h('option', { value: d.id }, [bytes(d.size_bytes), d.model, d.id, d.contents_text && `(${d.contents_text})`].filter(Boolean).join(' ')))))
      : field('disk_layout.disk', 'Disk', spot({ placeholder: 'serial or WWN' }), 'Empty: the smallest that fits. You approve when it is known.');
    const keepRoot = field('disk_layout.keep_root_size', 'Keep the root partition as small as the image has it', h('input', { type: 'checkbox' }));
    keepRoot.className = 'check';
    keepRoot.prepend(keepRoot.querySelector('input'));
    const net = field('network_config.config', 'Network configuration', h('textarea', { rows: 3, spellcheck: false, placeholder: 'version: 2\nethernets: …' }), 'cloud-init, version 2. Empty: DHCP.');
    const user = field('user_data', 'User data', h('textarea', { rows: 3, spellcheck: false, placeholder: '#cloud-config' }), 'cloud-init, as it is.');
    this.more = h('details', null, h('summary', null, 'Network and first boot'), h('div.inside-more', null, h('div.pair', null, net, user), keepRoot));
    const known = this.action === 'create' && h('datalist', { id: 'known' }, [...this.app.store.machines.values()].slice(0, 200).map((x) => h('option', { value: x.ids?.macs?.[0] ?? x.name }, x.name)));
    return [target, known, h('div.pair', null, image, disk), h('div.pair', null, host, keys), this.more];
  }

  value(name) { return this.fields[name]?.input.value.trim() ?? ''; }

  /** The machine that is meant, if this node knows it. */
  machine() {
    if (this.row?.machine) return this.row.machine;
    const v = this.value('target_mac').toLowerCase();
    if (!v) return null;
    for (const m of this.app.store.machines.values()) {
      if (m.ids?.macs?.includes(v) || m.name.toLowerCase() === v || m.ids?.serial?.toLowerCase() === v) return m;
    }
    return null;
  }

  /** What is asked for, as POST /tasks and POST /plan take it. */
  spec() {
    const image = this.app.store.images.get(this.value('os_type'));
    const composed = image && [image.os_type, image.os_version].filter(Boolean).join('-') === image.name;
    const lines = this.value('network_config.ssh_keys').split('\n').map((l) => l.trim()).filter(Boolean);
    const m = this.machine();
    return {
      ...(m ? { machine_id: m.id } : { target_mac: this.value('target_mac').toLowerCase().replaceAll('-', ':') }),
      os_type: composed ? image.os_type : image?.name ?? '', os_version: composed ? image.os_version : '',
      disk_layout: { disk: this.value('disk_layout.disk') || undefined, keep_root_size: this.fields['disk_layout.keep_root_size'].input.checked || undefined },
      network_config: { hostname: this.value('network_config.hostname') || undefined, ssh_keys: lines.length ? lines : undefined, config: this.value('network_config.config') || undefined },
      user_data: this.value('user_data') || undefined,
    };
  }

  /** Asks the node what would be destroyed and written, without making anything. */
  async preview(changed = []) {
    this.asking?.abort();
    const asking = this.asking = new AbortController();
    this.changed = changed;
    this.set(null, '', '');
    const spec = this.spec();
    if (!spec.os_type || (!spec.machine_id && !macLike.test(spec.target_mac))) {
      this.clearErrors();
      return;
    }
    try {
      const got = await api.plan(spec, asking.signal);
      this.clearErrors();
      this.set(got.plan, got.plan_hash, got.problem, got.confirm);
    } catch (e) {
      if (!asking.signal.aborted) this.fail(e);
    }
  }

  /** Takes the plan of a task that waits. */
  read(task) {
    this.set(task.plan, task.plan_hash, task.problem, task.confirm);
  }

  set(plan, hash, problem, confirm = '') {
    if (hash !== this.hash) this.typed.value = '';
    this.stale = false;
    this.plan = plan;
    this.hash = hash;
    this.problem = problem;
    this.confirm = confirm;
    this.paint();
  }

  /** The screen moved on while the dialog was open. */
  follow() {
    const t = this.action === 'approve' ? this.app.store.tasks.get(this.row.task.id) : null;
    if (this.action === 'approve' && !this.busy) {
      if (!t) this.moved = 'This task has been deleted meanwhile.';
      else if (!t.actions.includes('approve')) this.moved = `This task has moved on meanwhile: ${t.phase_text}.`;
      else if (t.plan_hash !== this.hash) {
        this.changed = ['the machine reported again and its plan is another now'];
        this.read(t);
        return;
      }
    }
    this.paint();
  }

  /** Whether something would be lost, as the node says: then it wants the serial, too. */
  get needsProof() { return Boolean(this.plan) && Boolean(this.confirm); }

  paint() {
    keep(this.notice, [this.moved, this.changed], () => [
      this.moved && h('p.note', { role: 'alert' }, this.moved),
      this.changed.length > 0 && h('div.note', { role: 'alert' }, h('p', null, 'Nothing was done, because the plan has changed. Read it again:'), h('ul', null, this.changed.map((c) => h('li', null, c)))),
    ]);
    keep(this.place, [this.plan, this.problem, this.action], () => this.plan ? this.drawPlan() : this.problem ? h('p.note', null, this.problem) : null);
    this.proofField.hidden = !this.needsProof;
    if (this.needsProof) this.proofHint.textContent = `The disk holds ${contents(this.plan.erase.contents)}. Its serial number: ${this.confirm}`;
    this.buttons();
  }

  drawPlan() {
    const p = this.plan;
    const fb = p.first_boot ?? {};
    const m = this.row?.machine;
    const facts = [
      ['Pairing code', m?.pairing_code && `${m.pairing_code}, as on its console`],
      ['Image', `${p.image.name}, ${bytes(p.image.size_bytes)}, ${p.image.digest.slice(0, 12)}`],
      ['Host name', fb.hostname],
      ['SSH keys', fb.ssh_keys?.length ? plural(fb.ssh_keys.length, 'key', 'keys') : 'none'],
      ['Network', fb.network_config ? 'as given' : 'DHCP'],
      ['User data', fb.user_data ? 'as given' : ''],
      ['Root partition', p.layout?.grow_root ? 'grows to the end of the disk' : 'as the image has it'],
    ].filter(([, v]) => v);
    return [
      h('h3', null, 'Disks'), planDisks(p),
      m?.troubles?.length ? h('div.note', null, m.troubles.map((/** @type {string} */ t) => h('p', null, t))) : null,
      p.warnings?.length ? h('div.note', null, p.warnings.map((/** @type {string} */ w) => h('p', null, w))) : null,
      this.action === 'approve' ? h('dl.facts', null, facts.map(([k, v]) => [h('dt', null, k), h('dd', null, v)])) : null,
    ];
  }

  buttons() {
    const why = this.app.why();
    const p = this.plan;
    const proven = !this.needsProof || this.typed.value.trim().toLowerCase() === this.confirm.slice(-4).toLowerCase();
    this.go.hidden = !p;
    if (p) {
      const label = `Erase ${diskName(p.erase)} and install ${p.image.name}`;
      if (this.go.textContent !== label) this.go.textContent = label;
    }
    this.go.disabled = Boolean(why) || this.busy || this.stale || !proven || Boolean(this.moved);
    this.go.title = why || (proven ? '' : 'Type the last 4 characters of the serial number first.');
    const spec = this.form ? this.spec() : null;
    this.later.disabled = Boolean(why) || this.busy || !spec?.os_type || !(spec.machine_id || spec.target_mac);
    this.later.title = why;
    this.later.textContent = p || this.row?.machine ? 'Create task, approve later' : 'Create task';
    this.later.className = p ? '' : 'primary';
  }

  /** @param {boolean} approve */
  async send(approve) {
    if (this.busy) return;
    this.busy = true;
    this.buttons();
    const hash = this.hash, confirm_serial = this.needsProof ? this.typed.value.trim() : undefined;
    try {
      if (this.action === 'approve') await api.decide(this.row.task.id, { approved: true, plan_hash: hash, confirm_serial });
      else await api.create({ ...this.spec(), ...(approve ? { approve: { plan_hash: hash, confirm_serial } } : {}) });
      this.dialog.close();
    } catch (e) {
      this.busy = false;
      if (e instanceof Refused && e.status === 412) await this.again(e.changed.length ? e.changed : [e.message]);
      else this.fail(e);
    }
  }

  /** What was read is not so any more: read it again, approve again. */
  async again(changed) {
    if (this.action !== 'approve') return this.preview(changed);
    this.changed = changed;
    try {
      const t = await api.task(this.row.task.id);
      this.typed.value = '';
      this.read(t);
    } catch (e) {
      this.fail(e);
    }
  }

  clearErrors() {
    this.wrong.replaceChildren();
    for (const { input, wrong } of Object.values(this.fields)) {
      input.removeAttribute('aria-invalid');
      wrong.textContent = '';
    }
  }

  /** Puts each refusal at the field it is about, the rest at the end. */
  fail(e) {
    this.clearErrors();
    let placed = false;
    for (const f of e instanceof Refused ? e.fields : []) {
      const name = f.location.replace(/^body\./, '').replace(/\[\d+\]$/, '');
      const field = this.fields[name === 'machine_id' ? 'target_mac' : name === 'os_version' ? 'os_type' : name];
      if (!field) continue;
      field.input.setAttribute('aria-invalid', 'true');
      field.wrong.textContent = f.message;
      if (this.more?.contains(field.input)) this.more.open = true;
      placed = true;
    }
    if (!placed) this.wrong.replaceChildren(complaint(e));
    this.buttons();
  }
}
