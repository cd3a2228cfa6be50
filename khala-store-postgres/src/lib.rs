//! Khala on PostgreSQL.
