// The last 15 minutes of the overview, gathered while the console is open.

const KEPT_S = 900;
const NAMES = ["times", "entering", "leaving", "queued", "leased", "oldest", "inFlight"];

let points = Object.fromEntries(NAMES.map(name => [name, []]));
let last = null;

// Adds a status to what is known; gives it back.
export function noteStatus(status, now = Date.now()) {
  const queues = Object.values(status.queues);
  const sum = name => queues.reduce((total, queue) => total + queue[name], 0);
  const seen = { at: now, enqueued: sum("enqueued_total"), finished: sum("finished_total") };
  const seconds = last ? (now - last.at) / 1000 : 0;
  if (last && seconds < 1) return status;
  // The monitor's figures are as old as its last look: the same again says nothing new.
  const isFresh = last && seconds < 30 && seen.enqueued >= last.enqueued && seen.finished >= last.finished;
  const rate = name => (isFresh ? (seen[name] - last[name]) / seconds : null);
  const point = {
    times: now / 1000, entering: rate("enqueued"), leaving: rate("finished"), queued: sum("queued"), leased: sum("leased"),
    oldest: queues.reduce((most, queue) => Math.max(most, queue.queued ? queue.oldest_ms : 0), 0), inFlight: status.in_flight,
  };
  const first = points.times.findIndex(time => time > now / 1000 - KEPT_S);
  const from = first < 0 ? points.times.length : first;
  points = Object.fromEntries(NAMES.map(name => [name, [...points[name].slice(from), point[name]]]));
  last = seen;
  return status;
}

export const history = () => points;
