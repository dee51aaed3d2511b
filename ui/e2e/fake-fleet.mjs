// A fleet that exists only in memory, in the words of the real API: for looking
// at the dashboard and for testing it. It decides what the real node would.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';

const GB = 1e9;
const models = [
  ['Dell Inc.', 'PowerEdge R650', 'Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz', 32, 64, 256],
  ['HPE', 'ProLiant DL380 Gen10', 'Intel(R) Xeon(R) Silver 4210R CPU @ 2.40GHz', 20, 40, 128],
  ['Supermicro', 'AS-1114S-WN10RT', 'AMD EPYC 7543P 32-Core Processor', 32, 64, 512],
  ['QEMU', 'Standard PC (Q35 + ICH9, 2009)', 'QEMU Virtual CPU version 2.5+', 2, 2, 2],
];
const hex = (n, w) => n.toString(16).padStart(w, '0');
const hash = (v) => createHash('sha256').update(JSON.stringify(v)).digest('hex');

/** What an approval has to show the end of: nothing where nothing would be lost. */
const confirm = (plan) => Object.keys(plan.erase.contents ?? {}).length ? plan.erase.serial || plan.erase.wwn : '';

export const images = () => [
  { name: 'debian-12', os_type: 'debian', os_version: '12', digest: hash('d12'), size_bytes: 2147483648, stored_bytes: 412345678, source: 'debian-12.raw.xz', created_at: new Date().toISOString(), used_by: 3 },
  { name: 'tiny', os_type: 'tiny', os_version: '', digest: hash('tiny'), size_bytes: 67108864, stored_bytes: 9123456, source: 'tiny.raw', created_at: new Date().toISOString(), used_by: 0 },
];

const partition = (number, start, size, type, filesystem, label = '', fs_label = '') =>
  ({ number, start_bytes: start, size_bytes: size, type, filesystem, label, fs_label });

function disks(i) {
  const d = (name, model, serial, size, contents = {}, more = {}) => ({ name, model, serial, wwn: '', transport: 'nvme', size_bytes: size, logical_sector: 512, physical_sector: 4096, rotational: false, contents, ...more });
  const windows = { table: 'gpt', os: 'Windows', partitions: [partition(1, 1048576, 104857600, 'EFI system', 'vfat', 'EFI system partition'), partition(2, 105906176, 16777216, 'Microsoft reserved', ''), partition(3, 122683392, 300 * GB, 'Microsoft basic data', 'ntfs', 'Basic data partition', 'OS'), partition(4, 301 * GB, 700e6, 'Windows recovery', 'ntfs')] };
  if (i % 4 === 3) return [d('vda', 'QEMU HARDDISK', `LAB-${i}-D1`, 8589934592, {}, { transport: 'sata' }), d('vdb', 'QEMU HARDDISK', `LAB-${i}-D2`, 8589934592, { table: 'gpt', partitions: [partition(1, 1048576, 8 * GB, 'Linux', 'ext4', 'data', 'keep-me')] }, { transport: 'sata' })];
  return [
    d('nvme0n1', 'SAMSUNG MZQL21T9HCJR-00A07', `S64GNE0R${hex(700000 + i, 6).toUpperCase()}`, 1920383410176, i % 3 === 0 ? windows : {}),
    d('nvme1n1', 'SAMSUNG MZQL21T9HCJR-00A07', `S64GNE0T${hex(800000 + i, 6).toUpperCase()}`, 1920383410176),
    d('sda', 'ST16000NM001G-2KK103', `ZL2${hex(900000 + i, 5).toUpperCase()}`, 16000900661248, { signatures: ['zfs'], table: 'gpt', partitions: [partition(1, 1048576, 16000 * GB - 9e6, 'Solaris /usr', 'zfs', 'zfs-pool')] }, { transport: 'sas', rotational: true, wwn: `0x5000c500${hex(i, 8)}` }),
  ];
}

function inventory(i, macs) {
  const [vendor, product, model, cores, threads, gb] = models[i % 4];
  return {
    system: { vendor, product, serial: serial(i), uuid: `4c4c4544-0042-3510-8052-${hex(i, 12)}`, board_serial: `CN7${hex(i, 6)}`, asset_tag: '' },
    firmware: { mode: i % 2 ? 'bios' : 'uefi', vendor, version: '1.12.1', date: '09/13/2024', secure_boot: false },
    cpu: { model, arch: 'amd64', sockets: threads > 60 ? 2 : 1, cores, threads, mhz: 2000, microcode: '0xd0003a5', numa_nodes: 2 },
    memory: { total_bytes: gb * 2 ** 30, dimms: Array.from({ length: gb > 64 ? 8 : 1 }, (_, n) => ({ slot: `A${n + 1}`, size_bytes: gb * 2 ** 30 / (gb > 64 ? 8 : 1), type: 'DDR4', speed_mts: 3200, manufacturer: 'Hynix', part: 'HMA84GR7DJR4N-XN' })) },
    disks: disks(i),
    nics: macs.map((mac, n) => ({ name: `eno${n + 1}`, mac, driver: 'i40e', bus: `0000:1a:00.${n}`, speed_mbps: n ? 0 : 25000, link: n === 0, ip: n ? '' : ip(i), boot: n === 0 })),
    pci: Array.from({ length: 61 }, (_, n) => ({ address: `0000:${hex(n, 2)}:00.0`, vendor: '8086', device: '1572', class: '020000', driver: 'i40e' })),
    bmc: { interface: 'kcs', firmware: '6.10', ip: '10.0.9.7' }, tpm: { version: '2.0', description: 'IFX' },
  };
}
const serial = (i) => (i % 4 === 3 ? `LAB-${i}` : `${'HJKLMN'[i % 6]}${(i * 7919 % 46656).toString(36).toUpperCase().padStart(3, '0')}${(100 + i).toString(36).toUpperCase()}3`);
const mac = (i, n = 0) => `52:54:00:${hex(i >> 8, 2)}:${hex(i & 255, 2)}:0${n + 1}`;
const ip = (i) => `10.77.${i >> 8}.${i & 255}`;

/** The cluster in the words of the API's own golden files, with the images of this fleet. @param {string} state */
export function cluster(state, holds = images()) {
  const fixture = (name) => JSON.parse(readFileSync(new URL(`../static/test/fixtures/${name}.json`, import.meta.url), 'utf8'));
  const c = state === 'healthy' ? fixture('snapshot').cluster : fixture(`cluster-${state}`);
  for (const m of c.members) m.described.images = Object.fromEntries(holds.map((i, n) => [i.digest, Object.values(m.described.images)[n]]));
  return c;
}

/** A boot as the node tells it: what was seen, with the milestones measured. */
function timeline() {
  const ago = (s) => new Date(Date.now() - s * 1000).toISOString();
  return [
    { at: ago(3600), source: 'dhcp', text: 'asked for an address as UEFI amd64 PXE firmware; was offered 10.77.0.100 and the boot file snponly.efi', step: 'offer', milestone: 'asks', begins: true },
    { at: ago(3596), source: 'dhcp', text: 'as UEFI amd64 PXE firmware, was lent 10.77.0.100 and the boot file snponly.efi', step: 'ack', milestone: 'address', took_ms: 3890 },
    { at: ago(120), source: 'dhcp', text: 'asked for an address as UEFI amd64 PXE firmware; was offered 10.77.0.100 and the boot file snponly.efi', step: 'offer', milestone: 'asks', begins: true },
    { at: ago(116.1), source: 'dhcp', text: 'as UEFI amd64 PXE firmware, was lent 10.77.0.100 and the boot file snponly.efi', step: 'ack', milestone: 'address', took_ms: 3890 },
    { at: ago(116), source: 'tftp', text: 'asks for snponly.efi over TFTP, in blocks of 1468 bytes', step: 'asked' },
    { at: ago(115.9), source: 'tftp', text: 'fetched snponly.efi over TFTP (173792 bytes)', step: 'served', milestone: 'loader', took_ms: 180 },
    { at: ago(113.7), source: 'router', text: 'asked for an IPv6 router; was told that there is none' },
    { at: ago(113.5), source: 'dhcp', text: 'as UEFI amd64 iPXE, was lent 10.77.0.100 and the boot file script', step: 'ack', milestone: 'ipxe', took_ms: 2400 },
    { at: ago(113.4), source: 'script', text: 'was told to start the agent: it is new here', step: 'script', milestone: 'script', took_ms: 100 },
    { at: ago(113.2), source: 'http', text: 'fetched vmlinuz over HTTP (9342112 bytes)', step: 'served', milestone: 'kernel', took_ms: 210 },
    { at: ago(112.9), source: 'http', text: 'fetched initrd over HTTP (21003412 bytes)', step: 'served', milestone: 'initrd', took_ms: 300 },
    { at: ago(98), source: 'task', text: 'the agent reported from 10.77.0.100', milestone: 'agent', took_ms: 14900, slowest: true },
    { at: ago(60), source: 'task', text: 'approved by anna: erase 1.92 TB and write debian-12', milestone: 'approved', took_ms: 38000, waited: true },
    { at: ago(59), source: 'task', text: 'the disk is being erased', milestone: 'erasing', took_ms: 1000 },
  ];
}

export class FakeFleet {
  constructor({ machines = 24, spread = true } = {}) {
    this.index = 100;
    this.machines = new Map();
    this.tasks = new Map();
    this.images = images();
    this.cluster = cluster('healthy');
    this.audit = [{ index: 90, at: new Date(Date.now() - 7200e3).toISOString(), what: 'node n1 leads since term 4', node: 'n-1' }];
    this.requests = [];
    this.listeners = new Set();
    this.history = [];
    this.serial = 0;
    const mix = ['installed', 'installed', 'installing', 'waiting', 'installed', 'queued', 'discovered', 'installed', 'failed', 'installing', 'lost', 'erasing'];
    for (let i = 1; i <= machines; i++) this.addMachine(i, spread ? mix[(i - 1) % mix.length] : 'installing');
  }

  addMachine(i, phase = 'discovered') {
    const macs = [mac(i), mac(i, 1)];
    const inv = inventory(i, macs);
    const at = new Date(Date.now() - 3600e3).toISOString();
    const m = {
      id: `m-${hex(i, 6)}`, name: serial(i).toLowerCase(), region_id: 'dc1', ids: { uuid: inv.system.uuid, serial: serial(i), macs },
      addresses: { [macs[0]]: ip(i) }, phase: 'discovered', phase_text: 'its agent waits; nothing asked of it yet', actions: ['install', 'forget'], task_id: '', installed: null, unfinished: false, question: '', rival: null,
      first_seen: at, reported_at: at, agent_ip: ip(i), contact_at: new Date().toISOString(), lost: false, inventory: inv,
      summary: { vendor: inv.system.vendor, product: inv.system.product, cpu: inv.cpu.model, cores: inv.cpu.cores, threads: inv.cpu.threads, memory_bytes: inv.memory.total_bytes, disks: inv.disks.map((d) => ({ id: d.serial, model: d.model, size_bytes: d.size_bytes, contents_text: '' })), nics: macs.length, firmware: inv.firmware.mode },
      timeline: timeline(macs[0]), sightings: [],
    };
    this.machines.set(m.id, m);
    if (phase !== 'discovered') this.#give(m, phase, i);
    this.emit('machine', { machine_id: m.id, machine: listed(m) });
    return m;
  }

  #give(m, phase, i) {
    const hostname = phase === 'installed' ? `web-${i}` : `node-${i}`;
    const t = this.makeTask({ machine_id: m.id, os_type: 'debian', os_version: '12', network_config: { hostname } });
    m.name = hostname;
    const now = new Date().toISOString();
    if (phase === 'waiting') this.move(t, 'pending_approval');
    if (phase === 'queued') this.move(t, 'approved', { phase_text: 'approved, the agent fetches its grant' });
    if (phase === 'erasing') { this.move(t, 'installing'); this.progress(t, 3 + i % 15); }
    if (phase === 'installing') { this.move(t, 'installing'); this.progress(t, 20 + (i * 7) % 70); }
    if (phase === 'installed') {
      this.move(t, 'completed', { phase_text: `came up 12:04:31 as ${hostname}`, came_up: { at: now, hostname, ip: ip(i) } });
      m.installed = { task_id: t.id, image: 'debian-12', digest: hash('d12'), disk: { serial: 'x', size_bytes: 1 }, hostname, at: now, came_up: now };
      m.actions = ['install', 'forget'];
    }
    if (phase === 'failed') this.move(t, 'failed', { phase_text: 'failed at writing: disk S64GNE0R answers with I/O errors', error: { code: 'disk_error', message: 'write at 1.2 GB: input/output error', details: 'nvme0n1: I/O error, dev nvme0n1, sector 2344960 op 0x1:(WRITE)' } });
    if (phase === 'lost') { this.move(t, 'installing'); this.progress(t, 44); m.phase = 'lost'; m.lost = true; m.phase_text = 'silent for 4 min, last word: downloading 44 %'; m.contact_at = new Date(Date.now() - 24e4).toISOString(); }
  }

  planFor(spec) {
    const m = this.machines.get(spec.machine_id) ?? [...this.machines.values()].find((x) => x.ids.macs.includes(spec.target_mac));
    if (!m) return { plan: null, plan_hash: '', problem: 'this machine has not been seen yet; the plan is made when it reports' };
    const want = spec.disk_layout?.disk;
    const all = m.inventory.disks;
    const fit = all.filter((d) => !d.contents.signatures && (!want || d.serial === want));
    if (want && !all.some((d) => d.serial === want)) throw problem(400, `no disk of this machine has serial or WWN "${want}"`, 'disk_layout.disk');
    const erase = want ? all.find((d) => d.serial === want) : fit[0];
    const image = this.images.find((x) => x.name === [spec.os_type, spec.os_version].filter(Boolean).join('-'));
    if (!image) throw problem(400, `there is no image ${spec.os_type}`, 'os_type');
    const disk = (d) => ({ wwn: d.wwn, serial: d.serial, size_bytes: d.size_bytes, name: d.name, model: d.model, transport: d.transport, logical_sector: 512, contents: d.contents });
    const plan = {
      machine_id: m.id, system_uuid: m.ids.uuid, system_serial: m.ids.serial, macs: m.ids.macs, inventory_hash: hash(m.inventory), erase: disk(erase), untouched: all.filter((d) => d !== erase).map(disk),
      image: { name: image.name, digest: image.digest, size_bytes: image.size_bytes }, layout: { grow_root: !spec.disk_layout?.keep_root_size },
      first_boot: { hostname: spec.network_config?.hostname || m.name, ssh_keys: spec.network_config?.ssh_keys ?? null, network_config: spec.network_config?.config, user_data: spec.user_data },
      warnings: want || fit.length < 2 ? [] : [`no disk was named: ${erase.serial} was chosen as the smallest of ${fit.length} that fit`],
    };
    return { plan, plan_hash: hash(plan), problem: '', confirm: confirm(plan) };
  }

  profiles = [{ name: 'memtest', kind: 'memtest', text: 'tests the memory', built_in: true, erases: false, digest: hash('memtest') },
    { name: 'rescue', kind: 'rescue', text: 'a shell on the console', built_in: true, erases: false, digest: hash('rescue') },
    { name: 'd-i', kind: 'kernel', text: 'an installer', built_in: false, erases: true, digest: hash('d-i') }];

  bootOffer(m, name) {
    const profile = this.profiles.find((p) => p.name === name);
    if (!profile) throw problem(404, `there is no profile ${name}`);
    if (!profile.erases) return { profile, plan: null, plan_hash: '', problem: '', confirm: '' };
    const { plan, plan_hash, confirm } = this.planFor({ machine_id: m.id, os_type: 'debian', os_version: '12' });
    return { profile, plan: { ...plan, warnings: ['what profile d-i starts writes by itself, and LPMOS does not watch it'] }, plan_hash, problem: '', confirm };
  }

  boot(m, wish) {
    m.next_boot = wish;
    m.actions = wish ? ['install', 'cancel_boot', 'forget'] : ['install', 'boot', 'forget'];
    m.phase = wish ? 'queued' : 'discovered';
    m.phase_text = wish ? `boots profile ${wish.profile} once, ${wish.waits}` : 'nothing asked of it';
    this.emit('machine', { machine_id: m.id, machine: listed(m) });
  }

  makeTask(spec) {
    const host = spec.network_config?.hostname ?? '';
    if (host && !/^[a-z0-9-]+$/i.test(host)) throw problem(400, `hostname "${host}": use letters, digits and dashes, 63 at most`, 'network_config.hostname');
    if (!spec.machine_id && !/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/.test(spec.target_mac ?? '')) throw problem(400, `"${spec.target_mac}" is no MAC address; write it as 52:54:00:12:34:56`, 'target_mac');
    const m = this.machines.get(spec.machine_id) ?? [...this.machines.values()].find((x) => x.ids.macs.includes(spec.target_mac));
    const { plan, plan_hash, confirm } = this.planFor(spec);
    if (spec.approve && spec.approve.plan_hash !== plan_hash) throw problem(412, 'the plan has changed since you read it', '', ['what lies on the disk has changed']);
    const now = new Date().toISOString();
    const t = {
      id: `t-${hex(++this.serial, 6)}`, generation: 1, region_id: 'dc1', target_mac: spec.target_mac || m.ids.macs[0], machine_id: m?.id ?? '', machine_name: m?.name ?? '', os_type: spec.os_type, os_version: spec.os_version ?? '', image: plan?.image.name ?? [spec.os_type, spec.os_version].filter(Boolean).join('-'),
      disk_layout: spec.disk_layout ?? {}, network_config: spec.network_config ?? {}, user_data: spec.user_data ?? '', tags: spec.tags ?? {}, status: 'pending', phase: 'queued', phase_text: 'waits for the machine to boot from the network', actions: ['cancel', 'delete'],
      plan, plan_hash, confirm, problem: '', approval: null, progress: null, logs: [{ at: now, text: 'created' }], error: null, came_up: null, created_at: now, updated_at: now, reported_at: now, started_at: null, finished_at: null,
    };
    this.tasks.set(t.id, t);
    if (m) { m.task_id = t.id; m.actions = []; if (host) m.name = host; t.machine_name = m.name; }
    this.emit('task_created', { task_id: t.id, task: listed(t), machine_id: m?.id });
    if (m) this.move(t, spec.approve ? 'approved' : 'pending_approval');
    return t;
  }

  /** Has a machine stand, or go on again with null. */
  stall(id, why) {
    const m = this.machines.get(id);
    const now = new Date().toISOString();
    m.stall = why && { id: 'loader-silent', text: 'took snponly.efi, then silence for 40 s: did Secure Boot refuse it?', hint: 'switch Secure Boot off in the machine’s setup: snponly.efi is not signed. If it is off, look at the screen', since: now, at: now };
    m.timeline = [...m.timeline.slice(0, 6), ...(why ? [{ at: now, source: 'stall', step: 'stalled', stall: m.stall.id, text: m.stall.text, hint: m.stall.hint }] : [])];
    this.emit('machine', { machine_id: id, machine: listed(m) });
  }

  move(t, status, more = {}) {
    const phases = { pending: 'queued', pending_approval: 'waiting', approved: 'queued', installing: 'installing', completed: 'installed', failed: 'failed', rejected: 'discovered', cancelled: 'discovered' };
    const says = { pending_approval: 'waits for you to approve', approved: 'approved, the agent fetches its grant', installing: 'starts', completed: 'written, boots its own disk', rejected: 'rejected', cancelled: 'cancelled', failed: 'failed' };
    const acts = { pending: ['cancel', 'delete'], pending_approval: ['approve', 'reject', 'cancel', 'delete'], approved: ['cancel'], installing: ['cancel'], completed: ['delete'] };
    const now = new Date().toISOString();
    Object.assign(t, { status, phase: phases[status], phase_text: says[status], actions: acts[status] ?? ['retry', 'delete'], updated_at: now }, more);
    if (status === 'installing') t.started_at = now;
    if (!t.actions.includes('cancel')) t.finished_at = now;
    t.logs = [...t.logs, { at: now, text: t.phase_text }];
    const m = this.machines.get(t.machine_id);
    if (m) { Object.assign(m, { phase: t.phase, phase_text: t.phase_text, contact_at: now }); m.actions = t.actions.includes('cancel') ? [] : ['install', 'forget']; }
    this.emit('status', { task_id: t.id, machine_id: t.machine_id, task: listed(t), machine: m && listed(m) });
  }

  /** Sets a percentage; the frame is made by the node, which batches. */
  progress(t, percentage) {
    const stage = percentage < 20 ? 'partitioning' : percentage < 60 ? 'downloading' : percentage < 90 ? 'installing' : 'configuring';
    t.progress = { stage, percentage, message: stage, details: { bytes_downloaded: percentage * 4e6, bytes_total: 4e8, speed_mbps: stage === 'downloading' ? 700 + (percentage * 37) % 240 : 0 } };
    t.phase = stage === 'partitioning' ? 'erasing' : 'installing';
    t.phase_text = `${stage} ${percentage.toFixed(0)} %`;
    const m = this.machines.get(t.machine_id);
    if (m) Object.assign(m, { phase: t.phase, phase_text: t.phase_text, contact_at: new Date().toISOString() });
    return { task_id: t.id, machine_id: t.machine_id, progress: t.progress, phase: t.phase, phase_text: t.phase_text };
  }

  installing() { return [...this.tasks.values()].filter((t) => t.status === 'installing' && !this.machines.get(t.machine_id)?.lost); }

  snapshot() {
    return { type: 'snapshot', index: this.index, time: new Date().toISOString(), machines: [...this.machines.values()].map(listed), tasks: [...this.tasks.values()].map(listed), images: this.images, nodes: [{ id: 'n1', name: 'n1', region_id: 'dc1' }], stats: {}, cluster: this.cluster };
  }

  /** Tells how the cluster looks now. @param {any} c */
  look(c) {
    this.cluster = c;
    for (const f of this.listeners) f({ type: 'cluster', index: this.index, time: new Date().toISOString(), cluster: c });
  }

  note(what, more = {}) {
    const by = more.by ?? 'operator at 127.0.0.1';
    const audit = { index: this.index + 1, at: new Date().toISOString(), what: [by, what].filter(Boolean).join(' '), ...more, by };
    this.audit.unshift(audit);
    this.emit('audit', { audit });
  }

  /** What people may do with the nodes, as the node would refuse or do it. */
  member(id, f) {
    const m = this.cluster.members.find((x) => x.id === id);
    if (!m) throw problem(404, `there is no node ${id} in this cluster; lpmos node list shows them`);
    f(m);
    const voters = this.cluster.members.filter((x) => x.voter).length;
    for (const x of this.cluster.members) x.actions = !x.voter ? ['promote', 'remove'] : voters > 1 ? ['transfer', 'demote', 'remove'] : [];
    this.look({ ...this.cluster });
    return null;
  }

  emit(type, more) {
    const frame = { type, index: ++this.index, time: new Date().toISOString(), ...more };
    this.history.push(structuredClone(frame));
    if (this.history.length > 500) this.history.shift();
    for (const f of this.listeners) f(frame);
  }
}

/** A view as lists have it, without what only GET one tells. */
export function listed(v) {
  const { inventory: _i, sightings: _s, timeline: _t, user_data: _u, hardware: _h, ...rest } = v;
  return rest;
}

export function problem(status, detail, location = '', changed = undefined) {
  return Object.assign(new Error(detail), { status, body: { type: 'about:blank', title: 'Refused', status, detail, changed, errors: location ? [{ location: `body.${location}`, message: detail }] : [] } });
}
