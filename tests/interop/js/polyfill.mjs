// js-libp2p 3 calls Promise.withResolvers, which Node has from 22 on.
Promise.withResolvers ??= function () {
  const found = {}
  found.promise = new this((resolve, reject) => Object.assign(found, { resolve, reject }))
  return found
}
