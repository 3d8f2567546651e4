// JSON whose integers may be larger than a number of JavaScript holds: those become
// strings of their digits, and go back into JSON as the integers that they were.

const LARGE = /\d{16}/;
const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

export function parse(text) {
  return JSON.parse(LARGE.test(text) ? text.replace(TOKEN, kept) : text);
}

function kept(token) {
  const isInteger = token.length > 15 && /^-?\d+$/.test(token);
  return isInteger && !Number.isSafeInteger(Number(token)) ? `"${token}"` : token;
}

// One value of a tensor as JSON. Text stays text only where the datatype says so.
export function element(value, datatype) {
  const isDigits = typeof value === "string" && datatype !== "BYTES" && /^-?\d+$/.test(value);
  return isDigits ? value : JSON.stringify(value);
}

// A flat list of a tensor's elements as nested JSON text.
export function nest(flat, shape, datatype) {
  let at = 0;
  const level = depth => {
    if (depth === shape.length) return element(flat[at++], datatype);
    const parts = [];
    for (let row = 0; row < Number(shape[depth]); row++) parts.push(level(depth + 1));
    return `[${parts.join(",")}]`;
  };
  return level(0);
}

// The elements of nested lists in order, no more than `most`, and how many there are.
export function flatten(value, most = Infinity) {
  const flat = [];
  let count = 0;
  const walk = item => {
    if (Array.isArray(item)) item.forEach(walk);
    else if (count++ < most) flat.push(item);
  };
  walk(value);
  return { flat, count };
}

// The shape of nested lists, by the first of each level.
export function shapeOf(value) {
  const shape = [];
  for (let level = value; Array.isArray(level); level = level[0]) shape.push(level.length);
  return shape;
}
