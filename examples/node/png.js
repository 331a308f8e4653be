/** PNG files of 8-bit RGB: a signature and four kinds of chunk; zlib is Node's own. */

import { deflateSync } from "node:zlib";

const SIGNATURE = Buffer.from("89504e470d0a1a0a", "hex");
const POLYNOMIAL = 0xedb88320;

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ POLYNOMIAL : value >>> 1;
  return value;
});

/**
 * @param {{height: number, width: number, pixels: Uint8Array}} picture rows of red, green and blue
 * @param {Record<string, string>} texts in text chunks, Latin-1 keys and UTF-8 values
 */
export function encodePng({ height, width, pixels }, texts = {}) {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 2, 0, 0, 0], 8); // 8 bits, RGB, and the only methods there are
  const notes = Object.entries(texts).map(([key, text]) =>
    chunk("iTXt", Buffer.from(`${key}\0\0\0\0\0${text}`)),
  );
  const data = chunk("IDAT", deflateSync(rows(height, width, pixels)));
  return Buffer.concat([SIGNATURE, chunk("IHDR", header), ...notes, data, chunk("IEND", Buffer.alloc(0))]);
}

/** Each row with its filter before it: 2, the difference to the row above, which packs better than none. */
function rows(height, width, pixels) {
  const stride = width * 3;
  const filtered = Buffer.alloc(height * (stride + 1));
  for (let y = 0; y < height; y += 1) {
    const at = y * (stride + 1);
    filtered[at] = 2;
    for (let x = 0; x < stride; x += 1) {
      const above = y > 0 ? pixels[(y - 1) * stride + x] : 0;
      filtered[at + 1 + x] = pixels[y * stride + x] - above;
    }
  }
  return filtered;
}

function chunk(type, data) {
  const body = Buffer.concat([Buffer.from(type, "latin1"), data]);
  const ends = Buffer.alloc(8);
  ends.writeUInt32BE(data.length, 0);
  ends.writeUInt32BE(crc(body), 4);
  return Buffer.concat([ends.subarray(0, 4), body, ends.subarray(4)]);
}

function crc(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = TABLE[(value ^ byte) & 0xff] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}
