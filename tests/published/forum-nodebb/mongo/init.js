db.createUser({ user: "nodebb", pwd: "nodebb", roles: ["readWrite"] });
