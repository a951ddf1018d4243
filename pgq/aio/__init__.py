"""The async clients, on asyncpg. pgq/sync is generated from this package."""
