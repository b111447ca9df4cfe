// One call at a time, and the newest: what asks while a call runs waits for its end, and all that waits is one call.

export class Newest {
  #call; #running;

  /** @param call makes one call, of the state at that time; it does not throw */
  constructor(call) {
    this.#call = call;
    this.wanted = false; // whether another call follows the one that runs
  }

  get busy() {
    return this.#running !== undefined;
  }

  ask() {
    this.wanted = true;
    this.#running ??= this.#work();
  }

  /** No call follows the one that runs. */
  forget() {
    this.wanted = false;
  }

  /** As `forget`; resolves when nothing runs. */
  async stop() {
    this.forget();
    await this.#running;
  }

  async #work() {
    await undefined; // several changes at the same time are one call
    while (this.wanted) {
      this.wanted = false;
      await this.#call();
    }
    this.#running = undefined;
  }
}
