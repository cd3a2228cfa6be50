// Cuts a value's own text out of JSON text.
//
// `JSON.parse` followed by `JSON.stringify` keeps the value and loses the bytes (`1.0` becomes `1`, escapes and
// spaces change). Whoever has to keep or check the bytes of a payload cuts them out of the frame instead.
// The text must have passed `JSON.parse` before: this only finds where things start and end.

const SPACE = /[ \t\r\n]*/y;
const STRING = /"(?:[^"\\]|\\.)*"/y;
const SCALAR = /[^\s,\]}]+/y;

const past = (pattern, text, at) => {
  pattern.lastIndex = at;
  if (!pattern.test(text)) throw new Error(`no JSON at ${at}`);
  return pattern.lastIndex;
};

const skipSpace = (text, at) => past(SPACE, text, at);

// Where the value that starts at `at` ends.
const valueEnd = (text, at) => {
  if (text[at] === '"') return past(STRING, text, at);
  if (text[at] !== "{" && text[at] !== "[") return past(SCALAR, text, at);
  let depth = 0;
  do {
    const c = text[at];
    if (c === '"') at = past(STRING, text, at) - 1;
    else if (c === "{" || c === "[") depth += 1;
    else if (c === "}" || c === "]") depth -= 1;
    at += 1;
  } while (depth > 0);
  return at;
};

// The members of the object, or the elements of the array, that `text` is: `[key, text of the value]`.
export function* members(text) {
  let at = skipSpace(text, 0);
  const keyed = text[at] === "{";
  if (!keyed && text[at] !== "[") throw new Error("neither an object nor an array");
  at = skipSpace(text, at + 1);
  for (let index = 0; text[at] !== "}" && text[at] !== "]"; index += 1) {
    let key = index;
    if (keyed) {
      const end = past(STRING, text, at);
      key = JSON.parse(text.slice(at, end));
      at = skipSpace(text, skipSpace(text, end) + 1);
    }
    const end = valueEnd(text, at);
    yield [key, text.slice(at, end)];
    at = skipSpace(text, end);
    if (text[at] === ",") at = skipSpace(text, at + 1);
  }
}

// The text of the member with that key. The last one wins, as it does in `JSON.parse`.
export function member(text, wanted) {
  let found;
  for (const [key, value] of members(text)) if (key === wanted) found = value;
  return found;
}
