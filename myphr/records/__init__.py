"""Items of a patient's record: sealed bytes in the object store, rows in the database. Opens nothing by itself."""
