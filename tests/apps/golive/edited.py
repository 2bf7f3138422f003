import told

app = told.make("edited")
