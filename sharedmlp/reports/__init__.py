"""What a test and a prediction leave behind: tables, pictures and pages."""
