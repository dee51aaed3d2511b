// @ts-check
// What the page says: every word in one table, so that another language is
// another table, and the units people read. No DOM here.

export const text = {
  title: 'LPMOS',
  phase: {
    discovered: 'discovered', waiting: 'waiting', queued: 'queued', erasing: 'erasing',
    installing: 'installing', installed: 'installed', failed: 'failed', lost: 'lost',
  },
  phaseMeans: {
    discovered: 'seen on the wire, nothing asked of it yet',
    waiting: 'waits for you',
    queued: 'decided, waits for the machine',
    erasing: 'past the point of return',
    installing: 'the disk is being written',
    installed: 'runs from its own disk',
    failed: 'stopped, and says why',
    lost: 'silent when it should be talking',
  },
  group: {
    needs: 'Needs you', fresh: 'New machines', working: 'In progress', rest: 'Installed and idle', all: 'Machines',
  },
  action: {
    install: 'Install…', approve: 'Review…', reject: 'Reject', retry: 'Retry', cancel: 'Cancel task',
    delete: 'Delete task', forget: 'Forget machine', resolve: 'Settle…',
    boot: 'Boot once…', cancel_boot: 'Do not boot it…',
    protect: 'Protect', unprotect: 'Take the protection off…', release: 'Release…',
  },
  link: {
    live: 'live', catching: 'catching up', reconnecting: 'reconnecting', offline: 'offline', connecting: 'connecting',
  },
  /** @param {string} at @param {number} s */
  asOf: (at, s) => `as of ${at}, trying again ${s > 0 ? `in ${s} s` : 'now'}`,
  offlineNow: 'This browser has no network. What you see is from before.',
  noServer: 'Not now: the node cannot be reached.',
  noMajority: 'Not now: this node cannot reach a majority of the cluster.',
  /** @param {string} at */
  heardAt: (at) => `What you see is as of ${at}.`,
  /** @param {string} name */
  elsewhere: (name) => `The connection to node ${name} is lost. Other nodes of the cluster show the same:`,
  cluster: {
    role: { leader: 'leader', voter: 'voter', standby: 'stands by' },
    roleMeans: {
      leader: 'puts what is decided into the log', voter: 'has a vote in what is decided', standby: 'knows and serves everything, has no vote',
    },
    here: 'this node', reached: 'in reach', never: 'not heard yet',
    /** @param {string} at */
    silent: (at) => `silent since ${at}`,
    action: { promote: 'Give a vote', demote: 'Take the vote', transfer: 'Let it lead', away: 'Hand over the lead', remove: 'Remove…' },
    /** @param {number} have @param {number} total */
    chunks: (have, total) => have >= total ? 'all of it' : `${have.toLocaleString('en')} of ${plural(total, 'chunk', 'chunks')}`,
    none: 'nothing',
    noCluster: 'This node is of no cluster.',
    noImages: 'There is no image yet.',
    odd: 'The cluster keeps its votes odd by itself (1, 3 or 5), so that another node may get one or lose one. With fewer than three to vote, one decides alone: while that one is lost, nothing can be decided.',
  },
  signIn: {
    title: 'Sign in', signIn: 'Sign in', name: 'Name', password: 'Password',
    wrong: 'That name and password do not go together, or the account is disabled.',
    ended: 'Your session has ended. Sign in again.',
    oldLink: 'That link has been used or has expired. lpmos login-link prints another on the node.',
    lost: 'No password? On the node, lpmos login-link prints a link that signs in once.',
    setUpTitle: 'Set up', setUp: 'Make the first administrator', nobody: 'Nobody has an account here yet.',
    code: 'Setup code', codeHint: 'As lpmos up has printed it. lpmos setup-code prints another on the node.',
    wrongCode: 'That code is not right, has been used or has expired. lpmos setup-code prints another on the node.',
    passwordHint: '12 characters or more; a few words are good.',
  },
  access: {
    title: 'Access', you: 'You', users: 'Users', tokens: 'API tokens',
    role: { viewer: 'viewer: looks', operator: 'operator: makes and approves tasks', admin: 'admin: everything' },
    noAccount: 'You have come by a login link, without an account. What you do is told as done by “local”.',
    changePassword: 'Change password…', signOut: 'Sign out',
    name: 'Name', may: 'May', state: 'State', sessions: 'Open', since: 'Since', whose: 'Of', expires: 'Expires',
    enabled: 'enabled', disabled: 'disabled', noUsers: 'Nobody has an account yet. The first has to be an admin.', noTokens: 'There is no API token.',
    addUser: 'Add a user', addToken: 'Make an API token', setRole: 'Role…', setPassword: 'Password…', disable: 'Disable…', enable: 'Enable…', remove: 'Remove…', revoke: 'Revoke…',
    nameHint: 'a-z, 0-9, dot, dash, underscore and @', password: 'Password', newPassword: 'New password', oldPassword: 'Password now',
    passwordHint: '12 characters or more; a few words are good.', endsSessions: 'Every session of the account ends at once.', endsYours: 'You sign in again after it.',
    tokenName: 'What is it for', tokenHint: 'As it is named in the audit', days: 'Good for how many days',
    keyOnce: 'The key of the token', keyHow: 'It is shown this once. Programs send it as Authorization: Bearer KEY; the command line takes it as LPMOS_TOKEN.',
  },
  /** @param {string} name @param {string} role @param {string} need */
  mayNot: (name, role, need) => `${name} is ${role}, and this needs ${need}.`,
  stalled: 'stalled', whatToDo: 'What to do',
  /** @param {string} at */
  standsSince: (at) => `It stands since ${at}.`,
  timeline: {
    title: 'Timeline', slowest: 'slowest', waited: 'a person’s time', every: 'Everything that was seen', before: 'Its boots before',
    asks: 'first word', address: 'has an address', loader: 'has the loader', ipxe: 'iPXE runs', script: 'has its script', kernel: 'has the kernel', initrd: 'has the agent',
    agent: 'agent reported', task: 'task made', approved: 'approved', erasing: 'erasing', downloading: 'writing', installing: 'verifying', configuring: 'made bootable', written: 'installed', failed: 'failed', up: 'came up',
    stalled: 'stalled', 'goes-on': 'goes on',
  },
  wire: { title: 'Machines on the wire', machine: 'Machine', address: 'Address', last: 'The last that it did', ago: 'Ago', none: 'No machine was seen on the wire since this node started.', stranger: 'No agent has reported from it yet.' },
  paused: 'paused: what you see stands still',
  all: 'All',
  /** @param {number} n @param {number} of */
  shown: (n, of) => n === of ? plural(n, 'row', 'rows') : `${n} of ${plural(of, 'row', 'rows')}`,
  /** @param {number} n @param {number} bps bytes a second */
  working: (n, bps) => n === 0 ? '' : `${plural(n, 'install', 'installs')} running` + (bps > 0 ? `, ${bytes(bps)}/s in all` : ''),
  newMachineName: (/** @type {string} */ mac) => `expected at ${mac}`,
  empty: {
    loading: 'Asking the node what it knows…',
    nothing: 'No machine has asked to boot yet.',
    nothingHow: [
      'Connect a machine to the network this node serves and switch it on.',
      'In its firmware setup, let it boot from the network (PXE or HTTP, IPv4) at least once.',
      'It appears here some seconds after its agent has looked at its disks. Nothing is ever erased before you say so.',
    ],
    nothingWatch: 'Watch what the network hears',
    nothingTask: 'Or prepare a task for a MAC you know',
    noMatch: 'Nothing matches this search.',
    clear: 'Clear the search',
    images: 'No image yet. An image is a raw disk image (also .gz, .xz, .zst) that boots by itself.',
    imagesHow: 'Add one above, or on the node: lpmos image import FILE --name debian-12',
    network: 'No machine has asked for anything since this node started.',
    leases: 'No address is kept or lent.',
    log: 'Nothing has happened yet.',
    audit: 'Nobody has done anything yet.',
    timeline: 'This node has heard nothing of it on the wire since it started.',
  },
  keys: [
    ['/', 'search'], ['j  k', 'next, previous row'], ['Enter', 'open the machine'], ['a', 'review, approve or install'],
    ['r', 'retry'], ['n', 'new task'], ['p', 'pause and go on'], ['g then m  i  n  c  a  u', 'go to machines, images, network, cluster, audit, users'],
    ['?', 'these keys'], ['Esc', 'back'],
  ],
  filterHelp: 'Words match names, serials, MACs, addresses and images. state:waiting, mac:52:54, image:debian-12, vendor:dell, needs:you, is:stalled narrow it; a leading minus excludes.',
  live: {
    /** @param {string} name @param {string} phase @param {string} why */
    one: (name, phase, why) => `${name}: ${phase}${why ? `, ${why}` : ''}.`,
    /** @param {number} n */
    waiting: (n) => `${plural(n, 'machine waits', 'machines wait')} for you.`,
    lostLink: 'The connection to the node is lost.',
    gotLink: 'Connected again.',
    decides: 'The cluster can decide again.',
  },
};

const locale = 'en';
const plurals = new Intl.PluralRules(locale);

/** One form or the other, with its number. @param {number} n @param {string} one @param {string} other */
export function plural(n, one, other) {
  return `${n.toLocaleString(locale)} ${plurals.select(n) === 'one' ? one : other}`;
}

/** A size as it is printed on disks: powers of 1000, three digits. @param {number|undefined} n */
export function bytes(n) {
  if (n === undefined || !Number.isFinite(n)) return '';
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let u = 0;
  while (n >= 999.5 && u < units.length - 1) { n /= 1000; u++; }
  const digits = u === 0 || n >= 99.95 ? 0 : n >= 9.995 ? 1 : 2;
  return `${n.toFixed(digits)} ${units[u]}`;
}

/** Memory is sold in powers of 1024. @param {number|undefined} n */
export function memory(n) {
  if (!n) return '';
  const gib = n / 2 ** 30;
  return gib >= 1 ? `${+gib.toFixed(gib < 10 ? 1 : 0)} GiB` : `${Math.round(n / 2 ** 20)} MiB`;
}

/** Megabits on the wire, told as bytes. @param {number|undefined} mbps */
export function rate(mbps) {
  return mbps ? `${bytes(mbps * 125000)}/s` : '';
}

/** A span of time in its largest unit. @param {number} ms */
export function span(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

/** A span with its second unit, for durations that are over. @param {number} ms */
export function duration(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
}

/** The zero time of Go means "never". @param {string|null|undefined} at @returns {number} ms, NaN for never */
export function when(at) {
  return !at || at.startsWith('0001-') ? NaN : Date.parse(at);
}

/** Clock time, local, in 24 hours. @param {number|string|null|undefined} at */
export function clock(at) {
  const ms = typeof at === 'number' ? at : when(at);
  return Number.isNaN(ms) ? '' : new Date(ms).toLocaleTimeString('en-GB');
}

/** Date and clock time, the date left out when it is today. @param {string|null|undefined} at @param {number} now */
export function stamp(at, now) {
  const ms = when(at);
  if (Number.isNaN(ms)) return '';
  const d = new Date(ms);
  const today = new Date(now).toDateString() === d.toDateString();
  return (today ? '' : d.toLocaleDateString('en-CA') + ' ') + d.toLocaleTimeString('en-GB');
}

/** @typedef {{size_bytes:number, serial?:string, wwn?:string, model?:string, name?:string, contents?:any}} Disk */

/** A disk as people say it. @param {Disk} d */
export function diskName(d) {
  return [bytes(d.size_bytes), d.model, d.serial || d.wwn].filter(Boolean).join(' ');
}

/** Whether writing would destroy nothing that was found. @param {any} c */
export function blank(c) {
  return !c || !(c.table || c.partitions?.length || c.signatures?.length || c.marker || c.unreadable || c.os);
}

/** What lies on a disk, in one sentence. @param {any} c */
export function contents(c) {
  if (blank(c)) return 'blank';
  if (c.unreadable) return `could not be read: ${c.unreadable}`;
  const parts = [];
  if (c.os) parts.push(c.os);
  if (c.marker) parts.push('installed by LPMOS before');
  if (c.partitions?.length) parts.push(plural(c.partitions.length, 'partition', 'partitions'));
  else if (c.table) parts.push(`an empty ${c.table.toUpperCase()} table`);
  if (c.signatures?.length) parts.push(c.signatures.join(', '));
  return parts.join(', ');
}

/** One partition, in words. @param {any} p */
export function partition(p) {
  const label = p.fs_label || p.label;
  return [`${p.number}.`, bytes(p.size_bytes), p.filesystem || p.type, label && `“${label}”`].filter(Boolean).join(' ');
}
