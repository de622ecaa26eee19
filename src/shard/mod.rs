//! shard: see the house plan; being built.
