// A js-libp2p node that offers one security (`noise` or `tls`) and does what it is told, a line of JSON each:
//   node peer.mjs tls
// It says {"address"} first, then answers each line by one. Binary fields are base64.
import './polyfill.mjs'
import { createInterface } from 'node:readline'

const { createLibp2p } = await import('libp2p')
const { yamux } = await import('@chainsafe/libp2p-yamux')
const { identify } = await import('@libp2p/identify')
const { ping } = await import('@libp2p/ping')
const { tcp } = await import('@libp2p/tcp')
const { multiaddr } = await import('@multiformats/multiaddr')
const { Link, PROTOCOL } = await import('./link.mjs')

const security = process.argv[2] === 'tls'
  ? (await import('@libp2p/tls')).tls()
  : (await import('@chainsafe/libp2p-noise')).noise()

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [security],
  streamMuxers: [yamux()],
  services: { identify: identify({ runOnConnectionOpen: false }), ping: ping() }
})

const COMMANDS = {
  async identify ({ address }) {
    const connection = await node.dial(multiaddr(address))
    const found = await node.services.identify.identify(connection)
    return {
      peer: found.peerId.toString(),
      protocols: found.protocols,
      agent: found.agentVersion,
      security: connection.encryption,
      muxer: connection.multiplexer
    }
  },
  async ping ({ address }) {
    return { roundTripMs: await node.services.ping.ping(multiaddr(address)) }
  },
  async ask ({ address, target, message, payloads }) {
    const link = new Link(await node.dialProtocol(multiaddr(address), PROTOCOL))
    try {
      const answer = await link.ask(target, message, payloads.map((each) => Buffer.from(each, 'base64')))
      return { value: answer.value, payloads: answer.payloads.map((each) => each.toString('base64')) }
    } finally {
      await link.close()
    }
  }
}

const say = (fields) => process.stdout.write(JSON.stringify(fields) + '\n')

await node.handle(PROTOCOL, (stream) => {
  new Link(stream).serve().catch((error) => process.stderr.write(`${error.stack}\n`))
})
say({ address: node.getMultiaddrs()[0].toString() })
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line)
  try {
    say(await COMMANDS[command.do](command))
  } catch (error) {
    say({ error: error.stack })
  }
}
process.exit(0)
