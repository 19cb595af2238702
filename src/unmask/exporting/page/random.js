// The random draw of masking: unmask/data/masking/random_bits.py in JavaScript.

const WORD = (1n << 64n) - 1n;
const GOLDEN = 0x9e3779b97f4a7c15n;

// Hash a counter (the finaliser of SplitMix64).
function mix(counter) {
  let value = counter & WORD;
  value = ((value ^ (value >> 30n)) * 0xbf58476d1ce4e5b9n) & WORD;
  value = ((value ^ (value >> 27n)) * 0x94d049bb133111ebn) & WORD;
  return value ^ (value >> 31n);
}

// A stream of random bits of the first epoch, by its purpose.
export const streamOf = (seed, purpose) => hash(new TextEncoder().encode(`unmask masks 1/${seed}/0/${purpose}`));

// 64 random bits of the token at a position, which is negative for those before the text.
export const randomBits = (key, stream, position) => mix(key + stream + BigInt(position) * GOLDEN);

// The number below which a share of all random bits lies.
export function threshold(share) {
  const found = BigInt(share * 2 ** 64);
  return found < WORD ? found : WORD;
}

// Random bits as a number from 0 to 1.
export const uniform = (bits) => Number(bits >> 11n) * 2 ** -53;

const START = [
  0x6a09e667f3bcc908n, 0xbb67ae8584caa73bn, 0x3c6ef372fe94f82bn, 0xa54ff53a5f1d36f1n,
  0x510e527fade682d1n, 0x9b05688c2b3e6c1fn, 0x1f83d9abfb41bd6bn, 0x5be0cd19137e2179n,
];
const ORDER = [
  [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
  [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4], [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
  [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13], [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
  [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11], [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
  [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5], [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
];
const COLUMNS = [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15], [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]];
const turned = (value, by) => ((value >> by) | (value << (64n - by))) & WORD;

// BLAKE2b of bytes with a digest of 8 bytes, as an integer of 64 bits (RFC 7693).
export function hash(bytes) {
  const state = [...START];
  state[0] ^= 0x01010008n; // no key, 8 bytes of digest
  const blocks = Math.max(1, Math.ceil(bytes.length / 128));
  for (let block = 0; block < blocks; block++) {
    const part = new Uint8Array(128);
    part.set(bytes.subarray(128 * block, 128 * (block + 1)));
    const view = new DataView(part.buffer);
    const words = Array.from({ length: 16 }, (_, at) => view.getBigUint64(8 * at, true));
    const last = block + 1 === blocks;
    const v = [...state, ...START];
    v[12] ^= BigInt(last ? bytes.length : 128 * (block + 1));
    if (last) v[14] ^= WORD;
    for (let round = 0; round < 12; round++) {
      COLUMNS.forEach(([a, b, c, d], at) => {
        const [x, y] = [words[ORDER[round % 10][2 * at]], words[ORDER[round % 10][2 * at + 1]]];
        v[a] = (v[a] + v[b] + x) & WORD;
        v[d] = turned(v[d] ^ v[a], 32n);
        v[c] = (v[c] + v[d]) & WORD;
        v[b] = turned(v[b] ^ v[c], 24n);
        v[a] = (v[a] + v[b] + y) & WORD;
        v[d] = turned(v[d] ^ v[a], 16n);
        v[c] = (v[c] + v[d]) & WORD;
        v[b] = turned(v[b] ^ v[c], 63n);
      });
    }
    for (let at = 0; at < 8; at++) state[at] ^= v[at] ^ v[at + 8];
  }
  return state[0];
}
