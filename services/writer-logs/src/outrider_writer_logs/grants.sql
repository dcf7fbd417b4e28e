-- Adds lines, never changes or removes a stored one.
GRANT USAGE ON SCHEMA logs TO {role};
GRANT SELECT, INSERT ON logs.line TO {role};
GRANT SELECT, INSERT, UPDATE ON logs.sequence TO {role};
