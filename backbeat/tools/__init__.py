"""What a definition may hand to its code or its model: functions of one's own, HTTP, SQL, files."""
