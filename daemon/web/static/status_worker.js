// Shared worker: one event stream of the status for all tabs. A browser opens six connections to a
// server, over all its tabs; a stream for each tab would take them all.

const RECONNECT_DELAY_MS = 30000;
const ports = [];
let latest = null; // null while no status arrives

function publish(status) {
  latest = status;
  for (const port of ports) port.postMessage(status);
}

function connect() {
  const stream = new EventSource("../api/live");
  stream.addEventListener("status", (event) => publish(JSON.parse(event.data)));
  stream.onerror = () => {
    publish(null);
    // The browser reconnects by itself unless the response was an error, such as too many streams.
    if (stream.readyState === EventSource.CLOSED) setTimeout(connect, RECONNECT_DELAY_MS);
  };
}

onconnect = (event) => {
  const [port] = event.ports;
  ports.push(port);
  port.postMessage(latest);
};

connect();
