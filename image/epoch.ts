/**
 * The epoch of this tree's releases. It is raised when going back to what was released before would open a hole that is
 * known: capsules that have confirmed a release refuse bundles of an older epoch. It never falls.
 */
export const epoch = 1;
