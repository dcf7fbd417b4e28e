CREATE SCHEMA lifecycle;
