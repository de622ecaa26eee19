//! spool: see the house plan; being built.
