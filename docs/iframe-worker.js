// Search on pages opened from a folder: there browsers refuse `new Worker(url)`, so the script runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      const inner = frame.contentWindow;
      const listeners = [];
      this.postMessage = (data) => this.ready.then(() => listeners.forEach((each) => each({ data })));
      inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inner.addEventListener = (type, listener) => type === "message" && listeners.push(listener);
      const load = (source) =>
        new Promise((resolve, reject) => {
          const script = inner.document.createElement("script");
          script.src = source;
          script.onload = resolve;
          script.onerror = reject;
          inner.document.body.appendChild(script);
        });
      inner.importScripts = (...sources) => sources.reduce((before, each) => before.then(() => load(each)), Promise.resolve());
      this.ready = load(url);
    }
    terminate() {}
  };
}
