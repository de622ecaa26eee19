//! bounce: see the house plan; being built.
