//! smtp: see the house plan; being built.
