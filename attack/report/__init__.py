"""Result files to a page, figures and tables. No model is loaded here."""
