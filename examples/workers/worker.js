// A worker in JavaScript, for Node: serves one of the functions below, which its argument names.
// Speaks Plain::Fallible with the codec Json. Functions may be asynchronous: replies come in any order.

"use strict";

const functions = {
  host: (url) => new URL(url).host,
  sleep: async (milliseconds) => {
    await new Promise((wake) => setTimeout(wake, milliseconds));
    console.log("this goes to standard error");
    return milliseconds;
  },
};

const serve = functions[process.argv[2]];
// A print must not get between replies.
console.log = console.error;

let input = Buffer.alloc(0);
process.stdin.on("data", (bytes) => {
  input = Buffer.concat([input, bytes]);
  while (input.length >= 8 && input.length >= 8 + input.readUInt32BE(4)) {
    const end = 8 + input.readUInt32BE(4);
    answer(input.readUInt32BE(0), input.subarray(8, end));
    input = input.subarray(end);
  }
});

async function answer(id, request) {
  try {
    const reply = await serve(JSON.parse(request));
    send(id, Buffer.from(JSON.stringify(reply)));
  } catch (error) {
    send(id + 0x80000000, Buffer.concat([octets("error"), octets(error?.stack ?? `${error}`)]));
  }
}

function send(id, payload) {
  const header = Buffer.alloc(8);
  header.writeUInt32BE(id, 0);
  header.writeUInt32BE(payload.length, 4);
  process.stdout.write(Buffer.concat([header, payload]));
}

// A text as an octet string: behind its length in base 128.
function octets(text) {
  const string = Buffer.from(text);
  const digits = [string.length & 0x7f];
  for (let rest = string.length >> 7; rest > 0; rest >>= 7) digits.unshift(0x80 | (rest & 0x7f));
  return Buffer.concat([Buffer.from(digits), string]);
}
