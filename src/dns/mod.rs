//! dns: see the house plan; being built.
