// Prime's link protocol as spec/protocols/link.md says it: just what a foreign node needs to greet, ask and answer.
import { byteStream } from '@libp2p/utils'
import { decode, encode } from 'cborg'

export const PROTOCOL = '/prime/actor/1'
export const ECHO = '/js/echo'

const HELLO = 1, ASK = 3, REPLY = 4, FAIL = 5, CREDIT = 6, PING = 10, PONG = 11, BYE = 12
const ALLOWANCE = [65 * 2 ** 20, 2 ** 20, 1024, 256, 16 * 2 ** 20, 256 * 2 ** 20, 4096, 16384, 16384]
const PIECE_BYTES = 64 * 1024

let lastId = Math.floor(Math.random() * 2 ** 48)

export class Link {
  constructor (stream) {
    this.bytes = byteStream(stream, { maxBufferSize: 32 * 2 ** 20 })
    this.stream = stream
  }

  async write (header, payloads = []) {
    const body = encode(header)
    const prefix = new DataView(new ArrayBuffer(6 + 4 * payloads.length))
    prefix.setUint32(0, body.length)
    prefix.setUint16(4, payloads.length)
    payloads.forEach((payload, index) => prefix.setUint32(6 + 4 * index, payload.length))
    const front = Buffer.concat([new Uint8Array(prefix.buffer), body])
    for (const part of [front, ...payloads]) {
      for (let at = 0; at < part.length; at += PIECE_BYTES) {
        await this.bytes.write(part.subarray(at, at + PIECE_BYTES))
      }
    }
    return front.length + payloads.reduce((sum, payload) => sum + payload.length, 0)
  }

  async read () {
    const prefix = await this.take(6)
    const sizes = await this.take(4 * prefix.readUInt16BE(4))
    const header = decode(await this.take(prefix.readUInt32BE(0)))
    const payloads = []
    for (let at = 0; at < sizes.length; at += 4) payloads.push(await this.take(sizes.readUInt32BE(at)))
    const inPayloads = payloads.reduce((sum, payload) => sum + payload.length, 0)
    return { header, payloads, sizeBytes: 6 + sizes.length + prefix.readUInt32BE(0) + inPayloads }
  }

  async take (size) {
    return size === 0 ? Buffer.alloc(0) : Buffer.from((await this.bytes.read({ bytes: size })).subarray())
  }

  hello (linkId) {
    return this.write([HELLO, 1, 'js', [], ALLOWANCE, [], lastId++, linkId, 0])
  }

  // The dialler's side: greet, ask once, and wait for the answer, whatever else is said meanwhile.
  async ask (target, message, payloads) {
    await this.hello(lastId++)
    const greeting = await this.read()
    if (greeting.header[0] !== HELLO || greeting.header[1] !== 1) throw new Error(`no HELLO: ${greeting.header}`)
    await this.write([ASK, target, 1, message, 1, 20_000], payloads)
    for (;;) {
      const { header, payloads } = await this.read()
      if (header[0] === REPLY && header[1] === 1) return { value: header[2], payloads }
      if (header[0] === FAIL || header[0] === BYE) throw new Error(JSON.stringify(header))
      if (header[0] === PING) await this.write([PONG])
    }
  }

  // The acceptor's side: an actor at ECHO that answers an ask with its message's one field.
  async serve () {
    const greeting = await this.read()
    await this.hello(greeting.header[7])
    for (;;) {
      const { header, payloads, sizeBytes } = await this.read()
      if (header[0] === BYE) return
      if (header[0] === PING) await this.write([PONG])
      if (header[0] !== ASK) continue
      await this.write([CREDIT, header[1], 1, sizeBytes])
      if (header[1] === ECHO) await this.write([REPLY, header[4], header[3][1]], payloads)
      else await this.write([FAIL, header[4], 'NoSuchActorError', `no actor at ${header[1]}`, 'it is a js peer', ''])
    }
  }

  async close () {
    await this.write([BYE, 0, ''])
    await this.stream.close()
  }
}
