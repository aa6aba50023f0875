// js-libp2p nodes in libp2p's DHT, which do what they are told, a line of JSON each:
//   node dht.mjs 2
// They say {"nodes": [{"peer", "address"}, …]} first, then answer each line, {"do", "node", …}, by one. Binary fields are base64.
import './polyfill.mjs'
import { createInterface } from 'node:readline'

const { createLibp2p } = await import('libp2p')
const { noise } = await import('@chainsafe/libp2p-noise')
const { yamux } = await import('@chainsafe/libp2p-yamux')
const { identify } = await import('@libp2p/identify')
const { kadDHT, passthroughMapper } = await import('@libp2p/kad-dht')
const { peerIdFromString } = await import('@libp2p/peer-id')
const { ping } = await import('@libp2p/ping')
const { tcp } = await import('@libp2p/tcp')
const { tls } = await import('@libp2p/tls')
const { multiaddr } = await import('@multiformats/multiaddr')
const { CID } = await import('multiformats/cid')
const Digest = await import('multiformats/hashes/digest')

const RAW = 0x55
const PATIENCE_MS = 15_000

// What may stand under /prime/ is for Prime to judge; under /app/ the greater value counts, on both sides.
const lastOf = (_, values) => values.reduce((best, each, index) => Buffer.compare(each, values[best]) > 0 ? index : best, 0)

const start = (securities) => createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: securities.map((each) => each()),
  streamMuxers: [yamux()],
  connectionManager: { inboundConnectionThreshold: 1000 }, // else it takes five a second of one host, and all are on this one
  services: {
    identify: identify(),
    ping: ping(),
    dht: kadDHT({
      protocol: '/ipfs/kad/1.0.0',
      clientMode: false,
      peerInfoMapper: passthroughMapper, // else it takes no address of the loopback
      validators: { app: () => {}, prime: () => {} },
      selectors: { app: lastOf, prime: lastOf },
      initialQuerySelfInterval: 100
    })
  }
})

const bytes = (text) => new Uint8Array(Buffer.from(text, 'base64'))
const text = (data) => Buffer.from(data).toString('base64')
const cid = (multihash) => CID.createV1(RAW, Digest.decode(bytes(multihash)))
const peers = (infos) => infos.map(({ id, multiaddrs }) => ({ peer: id.toString(), addresses: multiaddrs.map(String) }))

async function * events (query) {
  for await (const event of query) {
    if (event.name === 'QUERY_ERROR') process.stderr.write(`${event.error.stack}\n`)
    yield event
  }
}

const COMMANDS = {
  async connect (node, { address }) {
    await node.dial(multiaddr(address))
    return {}
  },
  async size (node) {
    return { size: node.services.dht.routingTable.size }
  },
  async findPeer (node, { peer }, options) {
    for await (const event of events(node.services.dht.findPeer(peerIdFromString(peer), options))) {
      if (event.name === 'FINAL_PEER') return { found: peers([event.peer]) }
    }
    return { found: [] }
  },
  async put (node, { key, value }, options) {
    const holders = []
    for await (const event of events(node.services.dht.put(bytes(key), bytes(value), options))) {
      if (event.name === 'PEER_RESPONSE' && event.messageName === 'PUT_VALUE') holders.push(event.from.toString())
    }
    return { holders }
  },
  async get (node, { key }, options) {
    let value = null
    for await (const event of events(node.services.dht.get(bytes(key), options))) {
      if (event.name === 'VALUE') value = text(event.value)
    }
    return { value }
  },
  async provide (node, { multihash }, options) {
    const told = []
    for await (const event of events(node.services.dht.provide(cid(multihash), options))) {
      if (event.name === 'PEER_RESPONSE' && event.messageName === 'ADD_PROVIDER') told.push(event.from.toString())
    }
    return { told }
  },
  async findProviders (node, { multihash }, options) {
    const found = new Map()
    for await (const event of events(node.services.dht.findProviders(cid(multihash), options))) {
      if (event.name === 'PROVIDER') peers(event.providers).forEach((each) => found.set(each.peer, each))
    }
    return { found: [...found.values()] }
  }
}

const say = (fields) => process.stdout.write(JSON.stringify(fields) + '\n')

const nodes = []
for (let number = 0; number < Number(process.argv[2]); number++) nodes.push(await start(number % 2 ? [tls, noise] : [noise, tls]))
say({ nodes: nodes.map((node) => ({ peer: node.peerId.toString(), address: node.getMultiaddrs()[0].toString() })) })
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line)
  try {
    say(await COMMANDS[command.do](nodes[command.node], command, { signal: AbortSignal.timeout(PATIENCE_MS) }))
  } catch (error) {
    say({ error: error.stack })
  }
}
process.exit(0)
