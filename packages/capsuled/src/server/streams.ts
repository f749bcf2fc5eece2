/** The first message of a stream, and the rest of it. */
export async function splitFirst<T>(
  messages: AsyncIterable<T>,
): Promise<{ first: T | undefined; rest: AsyncIterable<T> }> {
  const iterator = messages[Symbol.asyncIterator]();
  const { value, done } = await iterator.next();
  return { first: done === true ? undefined : (value as T), rest: { [Symbol.asyncIterator]: () => iterator } };
}
