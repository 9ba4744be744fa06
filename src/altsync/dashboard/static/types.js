// The types of entities that the catalogue declares and the sinks, as the session names them.

let types = [], mirrors = {}, graphs = [];

export const setSession = (session) => { ({ types, mirrors, graphs } = session); };
export const mirrorNames = () => Object.keys(mirrors);
export const mirrorTitle = (sink) => mirrors[sink];
export const isGraph = (sink) => graphs.includes(sink);
export const allTypes = () => types;
export const typeOf = (name) => types.find((one) => one.type === name);
export const relatedTypes = () => types.filter((one) => one.relations.length);

// The type that a question is about at first: one with relationships, where there is one.
export const firstType = () => (relatedTypes()[0] ?? types[0])?.type;

export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
export const title = (field) => capital(field.replaceAll("_", " ").toLowerCase());
