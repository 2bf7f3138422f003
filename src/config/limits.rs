//! Every number that bounds something, with its reason.
