/** What is loaded only when YAML is read or written: a module of our own, so that the bundler keeps its names. */
export { parse, stringify } from "yaml";
