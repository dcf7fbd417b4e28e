GRANT USAGE ON SCHEMA lifecycle TO {role};
