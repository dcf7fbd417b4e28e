GRANT USAGE ON SCHEMA gateway TO {role};
